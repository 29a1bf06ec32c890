"""Checks of the unit `latent`: the cache's bytes, a low-rank cache, absorbed matrices, what may be rotated, a decode step."""

import torch

from attncourse._shared.heads import merge_heads
from attncourse._shared.rope import RotaryEmbedding
from attncourse.latent import LatentAttention, latent_attention, latent_attention_absorbed

from ..core import READY_MADE_ATTENTION, exercise_check, exercise_unit
from ..draw import integer, normal, sizes
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor, numbers_in

exercise_unit(
    "latent",
    title="Latent attention",
    chapter="latent",
    minutes=100,
    prerequisites=("kv_cache", "grouped_query"),
)


@exercise_check("latent.bytes", function="cache_bytes", points=2, section="what-a-token-leaves-behind")
def cache_bytes(learner, rng):
    """Predict the bytes that a token leaves behind in all layers, with multi-head and with latent attention."""
    for _ in range(4):
        layers, heads, dim = integer(rng, 3, 60), integer(rng, 5, 90), 8 * integer(rng, 3, 20)
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


@exercise_check("latent.compress", function="compress", points=2, section="low-rank-found-in-real-keys")
def compress(learner, rng):
    """Replace the projections of keys and values by a shared latent of a given rank, as close as can be."""
    d, dk, dv = sizes(rng, 3, least=8)
    w_k = normal(rng, dk, d) * torch.linspace(2, 0.1, d, dtype=torch.float64)
    w_v = normal(rng, dv, d) * torch.linspace(0.3, 3, d, dtype=torch.float64)  # keys and values use other directions
    for rank in (2, 5, d if d < dk + dv else dk + dv):
        got = learner(w_k, w_v, rank)
        expect(
            isinstance(got, tuple | list) and len(got) == 3, "return three matrices: down, then up for keys, for values"
        )
        down = expect_tensor(got[0], (rank, d), what="the matrix to the latent")
        up_k = expect_tensor(got[1], (dk, rank), what="the matrix from the latent to keys")
        up_v = expect_tensor(got[2], (dv, rank), what="the matrix from the latent to values")
        both = torch.cat([w_k, w_v])
        gap = torch.cat([up_k, up_v]) @ down - both
        singular = torch.linalg.svdvals(both)
        least, whole = singular[rank:].norm(), singular.norm()
        case = f"with a latent of {rank}"
        if rank == min(both.shape):
            expect(
                bool(gap.norm() < 1e-8 * whole), f"{case}, as large as the rank, keys and values are not what they were"
            )
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
            bool(gap.norm() < least * (1 + 1e-6) + 1e-8 * whole),
            f"{case}: another one of this width leaves out less of the keys and values together",
        )


def _separate_gap(w_k, w_v, rank):
    """What is left out when keys have one half of the latent, and values the other."""
    left_out = torch.linalg.svdvals(w_k)[rank // 2 :], torch.linalg.svdvals(w_v)[rank - rank // 2 :]
    return torch.cat(left_out).norm()


def _draw(rng, *, h, s, n, p, r, dv):
    """Queries of one token, (h, n) and (h, p), the cache, (s, r) and (s, p), and the matrices of each head."""
    return (
        normal(rng, h, n), normal(rng, h, p), normal(rng, s, r), normal(rng, s, p), normal(rng, h, n, r) * r**-0.5,
        normal(rng, h, dv, r) * r**-0.5,
    )  # fmt: skip


@exercise_check(
    "latent.absorb",
    function="absorbed_attend",
    points=3,
    section="absorbed-equals-expanded",
    forbids=READY_MADE_ATTENTION,
)
def absorb(learner, rng):
    """Absorb the up-projections: attend to the latents themselves, without any head's keys or values."""
    h, s, n, r, dv = sizes(rng, 5)
    for width in (n, r):  # where a head is as wide as the latent, a matrix used the wrong way round fits too
        q, _, latent, _, w_uk, w_uv = _draw(rng, h=h, s=s, n=width, p=0, r=r, dv=dv)
        got = expect_tensor(learner(q, latent, w_uk, w_uv), (h, dv), what="the output")
        wanted = _absorbed(q, latent, w_uk, w_uv)
        scaled = _absorbed(q, latent, w_uk, w_uv, scale=r**-0.5)
        case = f"with heads of {width} and latents of {r}"
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
    s, h, n, r, dv = 4096, 8, 64, 16, 64
    q, _, latent, _, w_uk, w_uv = (x.float() for x in _draw(rng, h=h, s=s, n=n, p=0, r=r, dv=dv))
    expanded = 4 * h * s * n
    message = f"the keys of {h} heads for {s} tokens, {expanded / 1e6:.0f} MB, are never to be formed, nor their values"
    expect_memory(learner, [q, latent, w_uk, w_uv], at_most=expanded // 3, message=message)


def _absorbed(q, latent, w_uk, w_uv, **options):
    """The package's answer for one token, without rotary parts."""
    nothing = q[None, :, None, :0], latent[None, None], latent[None, None, :, :0]
    return latent_attention_absorbed(q[None, :, None], *nothing, w_uk, w_uv, **options)[0, :, 0]


@exercise_check("latent.rotary", function="decoupled_scores", points=3, section="decoupled-rotary")
def rotary(learner, rng):
    """Score with decoupled rotary keys: turn what may be turned, and nothing else."""
    h, s = sizes(rng, 2)
    n, r, p = 6, 6, 6  # of one width, so that what is turned by mistake can be
    q_nope, q_rope, latent, k_rope, w_uk, _ = _draw(rng, h=h, s=s, n=n, p=p, r=r, dv=3)
    start = integer(rng, 11, 40)
    positions = torch.arange(start, start + s)
    at = start + s - 1

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
    own = (q_rope @ k_rope[-1]) * (n + p) ** -0.5
    expect_close(moved[:, -1], own, "at distance 0 the rotary part is not the plain product of query and key")
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


@exercise_check(
    "latent.decode",
    function="decode_step",
    points=4,
    section="what-a-token-leaves-behind",
    forbids=READY_MADE_ATTENTION,
)
def decode(learner, rng):
    """Decode token by token from a cache of latents and rotated keys."""
    n, p, r, dv, h, d, length = 5, 4, 6, 3, 4, 11, 7
    layer = LatentAttention(
        d, h, kv_lora_rank=r, qk_nope_head_dim=n, qk_rope_head_dim=p, v_head_dim=dv, norm=False, impl="reference",
        form="expanded",
    ).double()  # fmt: skip
    weights = {name: normal(rng, *x.shape) * x.shape[1] ** -0.5 for name, x in layer.state_dict().items()}
    layer.load_state_dict(weights)
    w_uk, w_uv = (x.detach() for x in layer.up_projections)
    told = {
        "q": weights["q.weight"],
        "kv_a": weights["kv_a.weight"],
        "w_uk": w_uk,
        "w_uv": w_uv,
        "o": weights["o.weight"],
    }
    x = normal(rng, length, d)
    still = torch.zeros(length, dtype=torch.long)
    before = torch.ones(length, length, dtype=torch.bool).tril(-1)
    before[0, 0] = True
    with torch.no_grad():
        wanted = layer(x[None])[0]
        mistakes = {
            "as if all tokens stood at one position": _attend(layer, x, still),
            "as if it did not see itself": _attend(layer, x, torch.arange(length), mask=before),
        }
    cache, held = None, []
    for i, token in enumerate(x):
        got = learner(cache, token, told)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the output, then the cache")
        out, cache = got
        held.append(numbers_in(cache))
        expect_tensor(out, (d,), what="the output")
        if i == 0:
            expect_close(out, wanted[0], "the first token, which sees itself alone, has another output")
        for which, mistaken in mistakes.items():
            expect(i == 0 or not torch.allclose(out, mistaken[i]), f"the output of token {i} is {which}")
        expect_close(out, wanted[i], f"token {i} has another output than in the whole text, read at once")
    grown = held[-1] - held[-2]
    expect(
        grown == r + p,
        f"the cache grows by {grown} numbers a token; a latent of {r} and one shared key of {p} would do",
    )


def _attend(layer, x, positions, **masking):
    """The layer's output with its tokens at these positions, causal unless a mask is told."""
    inputs = *layer.queries(x[None], positions), *layer.compress(x[None], positions), *layer.up_projections
    out = latent_attention(*inputs, **masking or {"causal": True})
    return layer.o(merge_heads(out))[0]
