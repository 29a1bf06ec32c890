"""Writing with caches against writing without: the same tokens, whatever the layer, the layout, the chunk and the batch."""

import copy
import functools

import pytest
import torch

from attncourse._shared.rope import RotaryEmbedding
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import ChannelCache, ContiguousCache, Int4, Int8, RingCache
from attncourse.latent import LatentAttention
from attncourse.models import generate as generate_module
from attncourse.models.caches import forget_row, new_caches, paged
from attncourse.models.decoder import DecoderLM
from attncourse.models.generate import choose, generate
from attncourse.sliding_window import SlidingWindowAttention
from attncourse.testing import relative_error

VOCABULARY, WIDTH, CONTEXT, WINDOW = 13, 16, 41, 5


def grouped(n_kv_heads, **options):
    return GroupedQueryAttention(WIDTH, 4, n_kv_heads=n_kv_heads, rope=RotaryEmbedding(WIDTH // 4), **options)


def latent(form=None):
    widths = dict(kv_lora_rank=6, qk_nope_head_dim=3, qk_rope_head_dim=2, v_head_dim=5)
    return LatentAttention(WIDTH, 4, **widths, form=form)


LAYERS = {
    "multi-head": lambda: grouped(4),
    "grouped": lambda: grouped(2),
    "multi-query": lambda: grouped(1),
    "latent": latent,
    "latent, absorbed": lambda: latent("absorbed"),
    "latent, expanded": lambda: latent("expanded"),
    "window": lambda: SlidingWindowAttention(WIDTH, 4, window=WINDOW, rope=RotaryEmbedding(WIDTH // 4)),
    "grouped, a window": lambda: grouped(4, window=WINDOW),
}
LAYOUTS = {
    "contiguous": functools.partial(ContiguousCache, capacity=CONTEXT),
    "paged": functools.partial(paged, capacity=CONTEXT, page_size=3),
    "ring as long as the context": functools.partial(RingCache, window=CONTEXT, piece=CONTEXT),
}


@functools.cache
def build(layer="grouped", positions="rotary"):
    """A random model whose text wanders: with PyTorch's own scales one token would follow for ever."""
    torch.manual_seed(0)
    model = DecoderLM(
        VOCABULARY, d_model=WIDTH, n_layers=2, context=CONTEXT, positions=positions, attention=LAYERS[layer]
    ).double()
    with torch.no_grad():
        model.embed.weight.normal_()
        for block in model.stack.blocks:
            for weight in block.self_attention.parameters():
                weight *= 3.0
    return model.eval()


def draw_prompts(*lengths, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (n,), generator=rng) for n in lengths]


PROMPTS = draw_prompts(3, 17, 1, 8, 2, 11)
STEPS = 19


def with_caches(model, layout="contiguous", **options):
    made = LAYOUTS[layout] if isinstance(layout, str) else layout
    return lambda b: new_caches(model, b, layout=made, **options)


@torch.no_grad()
def read_again(model, prompt, steps, rng=None, temperature=1.0):
    """The oracle: the whole text, one prompt alone, for every token."""
    text = prompt
    for _ in range(steps):
        logits = model(text[None])[0, -1]
        if rng is None:
            token = logits.argmax()[None]
        else:
            token = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=rng)
        text = torch.cat([text, token])
    return text[len(prompt) :].tolist()


@functools.cache
def alone(model, seed=None, steps=STEPS):
    """Each prompt by the oracle; drawn ones by generators that are seeded in the prompts' order."""
    if seed is None:
        return [read_again(model, prompt, steps) for prompt in PROMPTS]
    rng = torch.Generator().manual_seed(seed)
    seeds = [int(torch.randint(2**62, (), generator=rng)) for _ in PROMPTS]
    return [
        read_again(model, prompt, steps, torch.Generator().manual_seed(own))
        for prompt, own in zip(PROMPTS, seeds, strict=True)
    ]


def drawing(seed):
    return {} if seed is None else dict(temperature=1.0, rng=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [None, 5], ids=["greedy", "sampled"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_with_a_cache_the_same_tokens_follow(layer, layout, seed):
    """Unequal prompts, all at once, and six prompts in two slots, the longest in pieces of four."""
    model = build(layer)
    wanted = alone(model, seed)
    assert len({token for row in wanted for token in row}) > 4, "a text of one token would hide what is wrong"
    for batching in ({}, dict(slots=2, chunk=4)):
        got = generate(model, PROMPTS, steps=STEPS, caches=with_caches(model, layout), **batching, **drawing(seed))
        assert got.tolist() == wanted, batching


@pytest.mark.parametrize("seed", [None, 5], ids=["greedy", "sampled"])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("layer", ["window", "grouped, a window"])
def test_a_window_needs_a_ring_alone(layer, chunk, seed):
    model = build(layer)
    ring = functools.partial(RingCache, window=WINDOW, piece=chunk)
    got = generate(model, PROMPTS, steps=STEPS, caches=with_caches(model, ring), slots=3, chunk=chunk, **drawing(seed))
    assert got.tolist() == alone(model, seed)
    held = new_caches(model, 3, layout=ring)[0].storage[0][0].shape[2]
    assert held == WINDOW + chunk - 1 < len(PROMPTS[1]) + STEPS


def test_without_a_cache_prompts_draw_alone_too():
    model = build()
    assert generate(model, PROMPTS, steps=STEPS, **drawing(3)).tolist() == alone(model, 3)


@pytest.mark.parametrize("layer", ["grouped", "latent"])
def test_the_chunk_changes_nothing(layer):
    model = build(layer)
    wanted = alone(model, steps=3)
    for chunk in range(1, 1 + max(map(len, PROMPTS))):
        got = generate(model, PROMPTS, steps=3, caches=with_caches(model), chunk=chunk)
        assert got.tolist() == wanted, chunk


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 6, 9])
def test_who_shares_the_batch_changes_nothing(slots):
    """Rows end after different numbers of steps, by the end token or without: slots change hands at all times."""
    model, steps = build(), [4, 1, 19, 7, 2, 12]
    free = alone(model, 2)
    for end in (None, free[2][5]):
        wanted = []
        for row, n in zip(free, steps, strict=True):
            stop = row.index(end) + 1 if end in row[:n] else n
            wanted.append(row[:stop] + [0] * (max(steps) - stop))
        for options in ({}, dict(caches=with_caches(model, "paged"), slots=slots, chunk=5)):
            got = generate(model, PROMPTS, steps=steps, end=end, **options, **drawing(2))
            assert got.tolist() == wanted, options


@pytest.mark.parametrize("seed", [None, 5], ids=["greedy", "sampled"])
def test_learned_positions_go_on_where_the_cache_ends(seed):
    torch.manual_seed(0)
    model = DecoderLM(
        VOCABULARY, d_model=WIDTH, n_layers=2, context=36, positions="learned",
        attention=lambda: GroupedQueryAttention(WIDTH, 4, n_kv_heads=2),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model.embed.weight.normal_()
        model.stack.places.weight.normal_()
    got = generate(model, PROMPTS, steps=STEPS, caches=with_caches(model), slots=2, chunk=4, **drawing(seed))
    assert got.tolist() == alone(model, seed)


def test_with_caches_a_token_is_read_once():
    """The reads of a prompt's passes tile its row, chunk by chunk, and no more rows than slots read at once."""
    model, steps, passes = build(), [4, 1, 9, 7, 2, 5], []
    generate(model, PROMPTS, steps=steps, caches=with_caches(model), slots=2, chunk=5, on_pass=passes.append)
    assert all(len(reads) == 2 for reads in passes)
    read = [(r.prompt, i) for reads in passes for r in reads for i in range(r.start, r.stop)]
    lengths = [len(p) + n - 1 for p, n in zip(PROMPTS, steps, strict=True)]  # what is written last is not read
    assert sorted(read) == [(i, j) for i, n in enumerate(lengths) for j in range(n)]
    assert max(r.stop - r.start for reads in passes for r in reads) == 5
    begun = [r.prompt for reads in passes for r in reads if r.start == 0 < r.stop]
    assert begun == [0, 1, 2, 3, 4, 5], "who waits longest comes first"


def test_without_caches_everything_is_read_for_every_token():
    passes = []
    generate(build(), PROMPTS[:2], steps=3, on_pass=passes.append)
    assert [[(r.start, r.stop) for r in reads] for reads in passes] == [[(0, 3 + i), (0, 17 + i)] for i in range(3)]


def test_a_forgotten_reset_shows(monkeypatch):
    """A slot that is handed on as it was: the first users get theirs, the next ones read the text of the last."""
    model = build()
    options = dict(steps=6, caches=with_caches(model), slots=2)
    wanted = generate(model, PROMPTS, **options).tolist()
    assert wanted == alone(model, steps=6)
    monkeypatch.setattr(generate_module, "forget_row", lambda cache, row: None)
    got = generate(model, PROMPTS[:4], **options).tolist()
    assert got[:2] == wanted[:2]
    assert got[2] != wanted[2] and got[3] != wanted[3]


def test_forgetting_a_row_leaves_the_others():
    for layout in LAYOUTS.values():
        (cache, *_) = new_caches(build(), 3, layout=layout)
        rng = torch.Generator().manual_seed(0)
        k, v = torch.randn(2, 3, 2, 7, 4, generator=rng, dtype=torch.float64)
        cache.append(k, v, counts=torch.tensor([7, 4, 2]))
        forget_row(cache, 0)
        assert cache.lengths.tolist() == [0, 4, 2]
        positions = cache.positions()
        assert (positions[0] == -1).all() and sorted(positions[1].tolist())[-4:] == [0, 1, 2, 3]
        at = positions[1].argsort()[-4:]
        torch.testing.assert_close(cache.view()[0][1][:, at], k[1, :, :4])


def test_pages_come_back_as_rows_end():
    """A pool for two rows serves six, and in the end every page is free."""
    model, made = build(), []

    def caches(b):
        made.extend(new_caches(model, b, layout=paged, capacity=36, page_size=4))
        return made

    generate(model, PROMPTS, steps=STEPS, caches=caches, slots=2)
    assert [cache.pool.n_pages for cache in made] == [18, 18]
    assert all(cache.pool.n_free == cache.pool.n_pages for cache in made)


def test_fewer_bits_stay_close():
    """Logits of a text read from a quantised cache: off by more, the fewer the bits, and never by much."""
    model, tokens = build(), torch.stack(draw_prompts(20, 20))
    with torch.no_grad():
        exact = model(tokens)
        off = {}
        for codec in (Int8(), Int4()):
            caches = new_caches(model, 2, capacity=20, codec=codec)
            logits = torch.cat([model(piece, caches=caches) for piece in tokens.split(3, dim=1)], dim=1)
            off[type(codec)] = float((logits - exact).std() / exact.std())
    assert 0 < off[Int8] < 0.02 and 4 * off[Int8] < off[Int4] < 0.5
    channels = functools.partial(ChannelCache, capacity=44, block=4)
    for layout in ("contiguous", "paged", channels):
        got = generate(model, PROMPTS, steps=5, caches=with_caches(model, layout, codec=Int8()), slots=2, chunk=3)
        assert (got == torch.tensor(alone(model, steps=5))).double().mean() > 0.8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_under_autocast_caches_hold_what_the_layers_hand_over(layer, dtype):
    model = copy.deepcopy(build(layer)).float()
    with torch.autocast("cpu", dtype=dtype):
        cached = generate(model, PROMPTS, steps=3, caches=with_caches(model))
        assert new_caches(model, 1, capacity=3)[0].dtype == dtype
        assert new_caches(model, 1, capacity=3, dtype=torch.float32)[0].dtype == torch.float32
    assert cached.shape == (len(PROMPTS), 3)
    assert new_caches(model, 1, capacity=3)[0].dtype == torch.float32


# Choosing a token.

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def draws(row, n=64, **options):
    """The tokens that n draws from one row of logits give."""
    return set(choose(row.repeat(n, 1), rng=torch.Generator().manual_seed(1), **options).tolist())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [1e-4, 1e-8, 1e-38, 1e-45, 5e-324])
def test_a_small_temperature_draws_the_likeliest_token(temperature, dtype):
    row = torch.tensor([-torch.inf, -3.0, 60.0, 57.0, 0.0], dtype=dtype)
    assert draws(row, temperature=temperature) == {2}
    assert draws(-row[1:], temperature=temperature) == {0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", [1, 2, 4, 7])
def test_top_k_draws_among_k_tokens_whatever_is_equal(top_k, dtype):
    """Ties across the border of the k likeliest go to the first of them, as argmax's do."""
    row = torch.zeros(1000, dtype=dtype)
    assert draws(row, n=256, temperature=1.0, top_k=top_k) == set(range(top_k))
    row[[70, 500, 900]] = 1.0
    likeliest = [70, 500, 900, *range(4)][:top_k]
    assert draws(row, n=512, temperature=1.0, top_k=top_k) == set(likeliest)


def test_draws_are_as_frequent_as_the_weights_say():
    """In float16, where a sum of 40 exponentials of the logits would be infinite."""
    row, n = torch.tensor([11.0, 10.0, 12.0] + 40 * [11.5], dtype=torch.float16), 40_000
    tokens = choose(row.repeat(n, 1), temperature=2.0, rng=torch.Generator().manual_seed(2))
    wanted = torch.softmax(row.double() / 2.0, dim=-1)
    error = (wanted * (1 - wanted) / n).sqrt()
    assert (tokens.bincount(minlength=len(row)) / n - wanted).abs().le(5 * error).all()


def test_caches_are_as_the_model_asks():
    model = build("latent")
    caches = new_caches(model, 2, capacity=5)
    assert len(caches) == 2 and caches[0] is not caches[1]
    assert [tuple(store[0].shape) for store in caches[0].storage] == [(2, 1, 5, 6), (2, 1, 5, 2)]
    assert caches[0].storage[0][0].dtype == torch.float64


# Errors.


def call(**options):
    model = build()
    return generate(model, PROMPTS, **{"steps": STEPS, "caches": with_caches(model), **options})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (lambda: call(slots=0), "slots must be at least 1, got 0"),
        (lambda: call(chunk=0), "chunk must be at least 1, got 0"),
        (lambda: call(caches=None, slots=2), "slots and chunk are for caches, got 2 and None"),
        (lambda: call(steps=[1, 2]), "one a prompt, got 2 for 6"),
        (lambda: call(steps=[1, 2, 3, 0, 5, 6]), r"needs a step, got steps \[1, 2, 3, 0, 5, 6\]"),
        (lambda: call(steps=26), "a context of 41 does not hold 42 tokens"),
        (lambda: call(context=30), "a context of 30 does not hold 35 tokens"),
        (lambda: call(temperature=torch.inf, rng=torch.Generator()), "at least 0 and finite, got inf"),
        (lambda: call(temperature=torch.nan, rng=torch.Generator()), "at least 0 and finite, got nan"),
        (lambda: call(temperature=1.0), "give a torch.Generator as rng"),
        (lambda: new_caches(DecoderLM(5, d_model=8, n_heads=2), 1, capacity=3), "MultiHeadAttention keeps no cache"),
    ],
)
def test_bad_calls_are_named(bad, rule):
    with pytest.raises(ValueError, match=rule):
        bad()


@pytest.mark.bad_input
@pytest.mark.parametrize("layout", [ContiguousCache, functools.partial(paged, page_size=2)])
def test_too_little_room_is_named_before_anything_is_read(layout):
    passes, model = [], build()
    with pytest.raises(ValueError, match="capacity 34 does not hold 35 tokens"):
        call(caches=with_caches(model, layout, capacity=34), on_pass=passes.append)
    assert not passes
    call(caches=with_caches(model, layout, capacity=35))


@pytest.mark.bad_input
def test_a_used_cache_is_refused():
    caches = new_caches(build(), len(PROMPTS), capacity=99)
    with torch.no_grad():
        build()(torch.ones(6, 1).long(), lengths=torch.tensor([0, 0, 1, 0, 0, 0]), caches=caches)
    with pytest.raises(ValueError, match=r"empty caches, got lengths \[0, 0, 1, 0, 0, 0\]"):
        call(caches=lambda b: caches)


@pytest.mark.bad_input
def test_what_the_caches_hold_counts_towards_the_context():
    model = build()
    caches = new_caches(model, 2, capacity=99)
    with torch.no_grad():
        model(torch.ones(2, 40).long(), lengths=torch.tensor([40, 12]), caches=caches)
        model(torch.ones(2, 1).long(), caches=caches)
        with pytest.raises(ValueError, match=r"there are 41 positions, got \[1, 1\] tokens after \[41, 13\]"):
            model(torch.ones(2, 1).long(), caches=caches)
        model(torch.ones(2, 1).long(), lengths=torch.tensor([0, 1]), caches=caches)
    assert caches[0].lengths.tolist() == [41, 14]


@pytest.mark.parametrize("layer", ["grouped", "latent", "window"])
@torch.no_grad()
def test_caches_serve_a_model_under_autocast(layer):
    """Made before or inside, of the model's dtype, autocast's or a third: the logits stay near, and text is written."""
    model = copy.deepcopy(build(layer)).float()
    before = new_caches(model, 1, capacity=CONTEXT)
    tokens = PROMPTS[1][None]
    with torch.autocast("cpu", torch.bfloat16):
        inside = new_caches(model, 1, capacity=CONTEXT)
        third = new_caches(model, 1, capacity=CONTEXT, dtype=torch.float16)
        dtypes = [caches[0].dtype for caches in (before, inside, third)]
        assert dtypes == [torch.float32, torch.bfloat16, torch.float16]
        wanted = model(tokens)
        for caches in (before, inside, third):
            pieces = [model(piece, caches=caches) for piece in tokens.split((9, 1, 7), dim=1)]
            assert relative_error(torch.cat(pieces, dim=1), wanted) < 0.05
        made = generate(model, PROMPTS[:2], steps=3, caches=with_caches(model))
    assert made.shape == (2, 3)
