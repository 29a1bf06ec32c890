"""Checks of the unit `latent`: the cache's bytes, a low-rank cache, absorbed matrices, what may be rotated, a decode step."""

import torch

from attncourse._shared.heads import merge_heads
from attncourse._shared.rope import RotaryEmbedding
from attncourse.latent import LatentAttention, latent_attention, latent_attention_absorbed

from ..core import READY_MADE_ATTENTION, exercise_check, exercise_unit
from ..draw import cycled, integer, normal, primes
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor, numbers_added

exercise_unit(
    "latent",
    title="Latent attention",
    chapter="latent",
    minutes=100,
    prerequisites=("kv_cache", "grouped_query"),
)


@exercise_check(
    "latent.bytes",
    function="cache_bytes",
    difficulty="easy",
    importance="core",
    points=2,
    section="what-a-token-leaves-behind",
)
def cache_bytes(learner, rng):
    """Predict the bytes that a token leaves behind in all layers, with multi-head and with latent attention."""
    for heads in (integer(rng, 61, 90), integer(rng, 5, 7), integer(rng, 7, 60)):
        layers, dim = integer(rng, 3, 60), 8 * integer(rng, 3, 20)
        rank, rope = 16 * integer(rng, 5, 40) + 3, 2 * integer(rng, 5, 40)
        got = learner(layers, heads, dim, rank, rope)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: multi-head's bytes, then latent's")
        multi_head, latent = (expect_number(x) for x in got)
        case = f"for {layers} layers, {heads} heads of {dim}, rank {rank} and rotary width {rope}"
        whole = 4 * layers * heads * dim
        expect(multi_head != whole // 2, f"{case}: multi-head attention caches keys and values, in two bytes a number")
        expect(multi_head == whole, f"{case}: the bytes of multi-head attention are wrong")
        expect(latent != 2 * layers * rank, f"{case}: the latent alone cannot tell positions; what else is cached?")
        expect(latent != 4 * layers * (rank + rope), f"{case}: keys and values share one latent")
        expect(latent != 2 * layers * heads * (rank + rope), f"{case}: all heads share one latent and one rotated key")
        expect(
            latent != 2 * layers * (rank + heads * rope),
            f"{case}: the latent is shared; all heads share one rotated key too",
        )
        expect(latent != 2 * (rank + rope), f"{case}: each layer has a cache of its own")
        expect(latent == 2 * layers * (rank + rope), f"{case}: the bytes of latent attention are wrong")


@exercise_check(
    "latent.compress",
    function="compress",
    difficulty="medium",
    importance="useful",
    points=2,
    section="low-rank-found-in-real-keys",
)
def compress(learner, rng):
    """Replace the projections of keys and values by a shared latent of a given rank, as close as can be."""
    dk, dv = 11, 7
    # a model's width below that of keys and values together, and above it; more keys than values, and fewer
    for d in (integer(rng, 12, 17), integer(rng, 20, 29)):
        dk, dv = dv, dk
        w_k = normal(rng, dk, d) * torch.linspace(2, 0.1, d, dtype=torch.float64)
        w_v = normal(rng, dv, d) * torch.linspace(
            0.3, 3, d, dtype=torch.float64
        )  # keys and values use other directions
        for rank in (2, 5, min(d, dk + dv), 1):
            _judge_compression(learner(w_k, w_v, rank), w_k, w_v, rank)
    w_k, w_v = normal(rng, dk, 3) @ normal(rng, 3, d), normal(rng, dv, 2) @ normal(rng, 2, d)  # of rank 5 together
    _judge_compression(learner(w_k, w_v, 6), w_k, w_v, 6)


def _judge_compression(got, w_k, w_v, rank):
    (dk, d), dv = w_k.shape, len(w_v)
    expect(isinstance(got, tuple | list) and len(got) == 3, "return three matrices: down, then up for keys, for values")
    down = expect_tensor(got[0], (rank, d), what="the matrix to the latent")
    up_k = expect_tensor(got[1], (dk, rank), what="the matrix from the latent to keys")
    up_v = expect_tensor(got[2], (dv, rank), what="the matrix from the latent to values")
    both = torch.cat([w_k, w_v])
    gap = torch.cat([up_k, up_v]) @ down - both
    singular = torch.linalg.svdvals(both)
    least, whole = singular[rank:].norm(), singular.norm()
    case = f"with a latent of {rank}"
    if rank == min(both.shape):
        expect(bool(gap.norm() < 1e-8 * whole), f"{case}, as large as the rank, keys and values are not what they were")
    separate = _separate_gap(w_k, w_v, rank)
    expect(
        not (separate - 1e-9 <= gap.norm() <= separate + 1e-9) or separate < least + 1e-9,
        f"{case}: half of it is for keys and half for values; one latent that both share leaves out less",
    )
    expect(
        bool(gap.norm() <= whole),
        f"{case}: keys and values from the latent are further off than zeros would be",
    )
    expect(
        bool(gap.norm() < least * (1 + 1e-6) + 1e-7 * whole),
        f"{case}: another one of this width leaves out less of the keys and values together",
    )


def _separate_gap(w_k, w_v, rank):
    """Return what is left out when keys have one half of the latent, and values the other."""
    left_out = torch.linalg.svdvals(w_k)[rank // 2 :], torch.linalg.svdvals(w_v)[rank - rank // 2 :]
    return torch.cat(left_out).norm()


def _draw(rng, *, h, s, n, p, r, dv):
    """Return queries of one token, (h, n) and (h, p), the cache, (s, r) and (s, p), and the matrices of each head."""
    return (
        normal(rng, h, n), normal(rng, h, p), normal(rng, s, r), normal(rng, s, p), normal(rng, h, n, r) * r**-0.5,
        normal(rng, h, dv, r) * r**-0.5,
    )  # fmt: skip


@exercise_check(
    "latent.absorb",
    function="absorbed_attend",
    difficulty="hard",
    importance="core",
    points=3,
    section="absorbed-equals-expanded",
    forbids=READY_MADE_ATTENTION,
)
def absorb(learner, rng):
    """Absorb the up-projections: attend to the latents themselves, without any head's keys or values."""
    h, s, n, r, dv = primes(rng, 5)
    for width in (n, r):  # where a head is as wide as the latent, a matrix used the wrong way round fits too
        q, _, latent, _, w_uk, w_uv = _draw(rng, h=h, s=s, n=width, p=0, r=r, dv=dv)
        case = f"with heads of {width} and latents of {r}"
        got = expect_tensor(learner(q, latent, w_uk, w_uv), (h, dv), what="the output")
        wanted = _absorbed(q, latent, w_uk, w_uv)
        scaled = _absorbed(q, latent, w_uk, w_uv, scale=r**-0.5)
        expect(
            width == r or not torch.allclose(got, scaled),
            f"{case}: the scores are scaled by the latents' width; absorbing changes no score, so none of their scale",
        )
        expect(
            not torch.allclose(got, _absorbed(q, latent, w_uk, w_uv, scale=1.0)), f"{case}: the scores are not scaled"
        )
        first = w_uv[:1].expand(h, -1, -1)
        expect(
            not torch.allclose(got, _absorbed(q, latent, w_uk, first)),
            f"{case}: all heads' values come by the first head's matrix",
        )
        expect_close(got, wanted, f"{case}, the output is not that of attention over expanded keys and values")
        case = f"{case}, and all scores of a head near 900 or near -900,"
        q, latent, w_uk = _lifted_heads(q, latent, w_uk, cycled(h, -900.0, 900.0))
        got = expect_tensor(learner(q, latent, w_uk, w_uv), (h, dv), what=f"{case} the output")
        expect_close(got, _absorbed(q, latent, w_uk, w_uv), f"{case} the output is wrong")
    args = [x for i, x in enumerate(_draw(rng, h=3, s=401, n=16, p=0, r=8, dv=12)) if i in (0, 2, 4, 5)]
    expect_close(learner(*args), _absorbed(*args), "with 401 tokens in the cache the output is wrong")
    # So wide are the heads that the keys of a single one would be seen.
    h, s, n, r = 4, 16384, 256, 8
    args = [x.float() for i, x in enumerate(_draw(rng, h=h, s=s, n=n, p=0, r=r, dv=n + 1)) if i in (0, 2, 4, 5)]
    one = 4 * s * n
    message = f"a head's keys for {s} tokens, {one / 1e6:.0f} MB, are never to be formed, nor its values"
    expect_memory(learner, args, _absorbed(*args), at_most=one // 2, message=message)


def _lifted_heads(q, latent, w_uk, levels):
    """Return the same with each head's scores around a level of its own."""
    q, latent, w_uk = q.clone(), latent.clone(), w_uk.clone()
    q[:, 0], latent[:, 0], w_uk[:, 0] = levels, 1.0, 0.0
    w_uk[:, 0, 0] = q.shape[1] ** 0.5
    return q, latent, w_uk


def _absorbed(q, latent, w_uk, w_uv, **options):
    """Return the package's answer for one token, without rotary parts."""
    nothing = q[None, :, None, :0], latent[None, None], latent[None, None, :, :0]
    return latent_attention_absorbed(q[None, :, None], *nothing, w_uk, w_uv, **options)[0, :, 0]


@exercise_check(
    "latent.rotary",
    function="decoupled_scores",
    difficulty="hard",
    importance="useful",
    points=3,
    section="decoupled-rotary",
)
def rotary(learner, rng):
    """Score with decoupled rotary keys: turn what may be turned, and nothing else."""
    h, s = primes(rng, 2)
    # Even, so that what is turned by mistake can be; a head's width n + p is no sum or double of other widths.
    n, p, r = ((10, 6, 4), (4, 6, 12), (6, 8, 10), (12, 6, 10), (6, 4, 8))[integer(rng, 0, 5)]
    q_nope, q_rope, latent, k_rope, w_uk, _ = _draw(rng, h=h, s=s, n=n, p=p, r=r, dv=3)
    # Tokens out of order and with gaps, as after others were dropped; the asking one is among them, and not the last.
    at = integer(rng, 60, 90)
    positions = at - torch.randperm(50, generator=rng)[:s] - 1
    asking = integer(rng, 0, s - 1)
    positions[asking] = at

    def score(q_nope, q_rope, latent, k_rope, shift=0):
        got = learner(q_nope, q_rope, at + shift, latent, k_rope, positions + shift, w_uk)
        return expect_tensor(got, (h, s), what="the scores")

    nothing = torch.zeros_like
    still = score(q_nope, nothing(q_rope), latent, nothing(k_rope))
    content = torch.einsum("hn,hnr,sr->hs", q_nope, w_uk, latent)
    ratio = float((still * content).sum() / content.square().sum())
    expect(
        torch.allclose(still, ratio * content),
        "with rotary parts of zeros, the scores are not those of the content: something in its way is turned too",
    )
    expect(
        abs(ratio - n**-0.5) > 1e-6, "scores are scaled by the width of the content alone; the rotary part counts too"
    )
    expect(abs(ratio - (n + p) ** -0.5) < 1e-6, "the scale of the scores is not that of a head's whole width")
    moved = score(nothing(q_nope), q_rope, latent, k_rope)
    far = score(nothing(q_nope), q_rope, latent, k_rope, shift=7)
    expect_close(
        far, moved, "all tokens moved on by 7 positions, and the scores changed: they depend on more than distances"
    )
    own = (q_rope @ k_rope[asking]) * (n + p) ** -0.5
    expect_close(moved[:, asking], own, "at distance 0 the rotary part is not the plain product of query and key")
    rope = RotaryEmbedding(p, interleaved=True)
    turned_q = rope(q_rope[None, :, None], torch.tensor([at]))[0, :, 0]
    wanted = turned_q @ rope(k_rope[None, None], positions)[0, 0].T * (n + p) ** -0.5
    halves = RotaryEmbedding(p)
    half = halves(q_rope[None, :, None], torch.tensor([at]))[0, :, 0] @ halves(k_rope[None, None], positions)[0, 0].T
    expect(
        not torch.allclose(moved, half * (n + p) ** -0.5), "planes are entries i and i + p/2; here they are neighbours"
    )
    expect_close(moved, wanted, "the rotary part is not turned by the angles of its positions")
    expect_close(score(q_nope, q_rope, latent, k_rope), still + moved, "the two parts of the score are not added")
    far = score(q_nope, q_rope, latent, k_rope, shift=-int(positions.min()))
    expect_close(far, still + moved, "where a token stands at position 0, the scores are wrong")


@exercise_check(
    "latent.decode",
    function="decode_step",
    difficulty="hard",
    importance="useful",
    points=4,
    section="what-a-token-leaves-behind",
    forbids=READY_MADE_ATTENTION,
    may_change=(0,),
)
def decode(learner, rng):
    """Decode token by token from a cache of latents and rotated keys."""
    n, r, dv, h, d = primes(rng, 5, most=13)
    p = (4, 6, 8)[integer(rng, 0, 3)]
    while p + n in (h, r, d, 9, 25):  # a width that another size could be taken for
        p += 2
    length = integer(rng, 26, 33)
    layer = LatentAttention(
        d, h, kv_lora_rank=r, qk_nope_head_dim=n, qk_rope_head_dim=p, v_head_dim=dv, norm=False, impl="reference",
        form="expanded",
    ).double()  # fmt: skip
    x = normal(rng, length, d)
    weights = {name: normal(rng, *w.shape) * w.shape[1] ** -0.5 for name, w in layer.state_dict().items()}
    wanted, mistakes, told = _whole_text(layer, weights, x)
    far_x, far_weights = _lifted_layer(x, weights, layer, cycled(h, 900.0, -900.0))
    far_wanted, _, far_told = _whole_text(layer, far_weights, far_x)
    cache, far_cache, added = None, None, []
    # Two texts take turns, so that nothing but the cache can carry one of them.
    for i in range(length):
        out, kept = _decoded(learner(cache, x[i], told), d)
        added.append(numbers_added(cache, kept))
        cache = kept
        if i == 0:
            expect_close(out, wanted[0], "the first token, which sees itself alone, has another output")
        for which, mistaken in mistakes.items():
            expect(i == 0 or not torch.allclose(out, mistaken[i]), f"the output of token {i} is {which}")
        expect_close(out, wanted[i], f"token {i} has another output than in the whole text, read at once")
        case = f"where all scores of a head are near 900, or near -900, the output of token {i}"
        out, far_cache = _decoded(learner(far_cache, far_x[i], far_told), d, what=case)
        expect_close(out, far_wanted[i], f"{case} is wrong")
    # A few steps may make room for many tokens; what most steps add is what a token leaves behind.
    grows = sorted(added)[length // 2]
    expect(
        grows <= r + p + 2,
        f"the cache takes {grows} numbers more with a token; a latent of {r} and one shared key of {p} would do",
    )


def _whole_text(layer, weights, x):
    """Return outputs of the layer with these weights, mistaken ones, and the weights as the learner is told them."""
    layer.load_state_dict(weights)
    w_uk, w_uv = (x.detach() for x in layer.up_projections)
    told = {
        "q": weights["q.weight"], "kv_a": weights["kv_a.weight"], "w_uk": w_uk.clone(), "w_uv": w_uv.clone(),
        "o": weights["o.weight"],
    }  # fmt: skip
    length = len(x)
    before = torch.ones(length, length, dtype=torch.bool).tril(-1)
    before[0, 0] = True
    with torch.no_grad():
        mistakes = {
            "as if all tokens stood at one position": _attend(layer, x, torch.zeros(length, dtype=torch.long)),
            "as if it did not see itself": _attend(layer, x, torch.arange(length), mask=before),
        }
        return layer(x[None])[0], mistakes, told


def _decoded(got, d, what="the output"):
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the output, then the cache")
    return expect_tensor(got[0], (d,), what=what), got[1]


def _lifted_layer(x, weights, layer, levels):
    """Return a text and weights by which each head's scores of all tokens lie around a level of its own."""
    x, weights = x.clone(), {name: w.clone() for name, w in weights.items()}
    x[:, 0] = 1.0
    heads, _, r = layer.up_projections[0].shape
    width = len(weights["q.weight"]) // heads
    q, kv_a = weights["q.weight"].view(heads, width, -1), weights["kv_a.weight"]
    kv_b = weights["kv_b.weight"].view(heads, -1, r)  # of each head, w_uk before w_uv
    q[:, 0], kv_a[0], kv_b[:, 0] = 0.0, 0.0, 0.0
    q[:, 0, 0], kv_a[0, 0], kv_b[:, 0, 0] = levels, 1.0, width**0.5
    return x, weights


def _attend(layer, x, positions, **masking):
    """Return the layer's output with its tokens at these positions, causal where no mask is given."""
    inputs = *layer.queries(x[None], positions), *layer.compress(x[None], positions), *layer.up_projections
    out = latent_attention(*inputs, **masking or {"causal": True})
    return layer.o(merge_heads(out))[0]
