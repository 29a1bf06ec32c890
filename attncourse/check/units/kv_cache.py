"""Checks of the unit `kv_cache`: its bytes, a step of decoding, the forgotten reset, pages, fewer bits, a shared prefix."""

import torch

from attncourse.kv_cache.slots import page_slots
from attncourse.softmax_attention import softmax_attention, softmax_attention_with_lse

from ..core import READY_MADE_ATTENTION, Broken, Picture, exercise_check, exercise_unit
from ..draw import integer, normal, sizes
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor, numbers_in, place

exercise_unit(
    "kv_cache",
    title="The KV cache",
    chapter="kv_cache",
    minutes=110,
    prerequisites=("multi_head",),
)


@exercise_check("kv_cache.bytes", function="token_bytes", points=1, section="what-decoding-costs")
def token_bytes(learner, rng):
    """Predict the bytes that a model's cache takes for a token, in bfloat16 and in codes of 4 bits."""
    for _ in range(4):
        layers, g, r = integer(rng, 20, 90), integer(rng, 2, 9), integer(rng, 2, 9)
        width = 32 * integer(rng, 2, 9)
        got = learner(layers, g * r, g, width)
        expect(
            isinstance(got, tuple | list) and len(got) == 2, "return two numbers: bytes in bfloat16, then with 4 bits"
        )
        plain, coded = (expect_number(x) for x in got)
        case = f"for {layers} layers, {g * r} query heads, {g} key/value heads, width {width}"
        entries = 2 * layers * g * width
        expect(plain != 2 * entries * r, f"{case}: query heads share keys and values, and no query is kept")
        expect(
            plain != entries,
            f"{case}: a key and a value are kept, and each entry has two bytes: one of the two is missing",
        )
        expect(plain != 2 * entries // layers, f"{case}: that is one layer's cache, and each has its own")
        expect(plain == 2 * entries, f"{case}: the bytes in bfloat16 are wrong")
        expect(coded != entries // 2, f"{case}: the codes are counted, the scales and zero points are not")
        expect(coded != entries // 2 + entries // 8, f"{case}: a group has a scale and a zero point, in float32 each")
        expect(coded != entries + entries // 4, f"{case}: two codes of 4 bits share a byte")
        expect(coded == entries // 2 + entries // 4, f"{case}: the bytes with codes of 4 bits are wrong")


@exercise_check(
    "kv_cache.step", function="decode_step", points=2, section="keep-the-keys-and-values", forbids=READY_MADE_ATTENTION
)
def step(learner, rng):
    """Attend from one new token to all that came, keeping what later ones will need and nothing else."""
    h, dk, dv, n = sizes(rng, 4)
    q, k, v = normal(rng, h, n, dk), normal(rng, h, n, dk), normal(rng, h, n, dv)
    wanted = softmax_attention(q[None], k[None], v[None], causal=True)[0]
    scores = torch.einsum("h t d, h s d -> h t s", q, k) * dk**-0.5
    before = torch.softmax(scores.masked_fill(torch.ones(n, n).triu(0).bool(), -torch.inf), dim=-1) @ v
    state = None
    for i in range(n):
        got = learner(state, q[:, i], k[:, i], v[:, i])
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the output, then the state")
        out, state = expect_tensor(got[0], (h, dv), what="the output"), got[1]
        if i == 0:
            expect_close(out, v[:, 0], "the first token sees itself alone, and its output is not its own value")
            continue
        expect(
            not torch.allclose(out, v[:, i]),
            f"at step {i} the output is the token's own value: nothing is kept of the tokens before it",
        )
        expect(not torch.allclose(out, before[:, i]), f"at step {i} the token does not see itself")
        expect_close(out, wanted[:, i], f"at step {i} the output is not attention to all tokens so far")
        expect(
            numbers_in(state) <= (i + 1) * h * (dk + dv) + 8,
            f"at step {i} the state holds more than the keys and values of the tokens so far",
        )


@exercise_check(
    "kv_cache.reset", function="serve_step", points=2, section="the-forgotten-reset", forbids=READY_MADE_ATTENTION
)
def reset(learner, rng):
    """Repair a cache whose rows serve one text after another, and show each what others left."""
    b, dk, steps = 3, integer(rng, 3, 8), 9
    begins = torch.zeros(steps, b, dtype=torch.bool)
    begins[0] = True
    begins[4, 0] = begins[6, 2] = True  # row 1 goes on with the text that it began with
    q, k, ids = normal(rng, steps, b, dk), normal(rng, steps, b, dk), torch.eye(steps, dtype=torch.float64)
    state, seen, allowed = None, torch.zeros(b, steps, steps), torch.zeros(b, steps, steps, dtype=torch.bool)
    for i in range(steps):
        got = learner(state, q[i], k[i], ids[i].repeat(b, 1), begins[i])
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the output, then the state")
        weights, state = expect_tensor(got[0], (b, steps), what="the output"), got[1]
        for row in range(b):
            first = int(begins[: i + 1, row].nonzero().max())
            seen[row, i], allowed[row, i, first : i + 1] = weights[row], True
            _judge_reset(seen[row], allowed[row], i, row, first)
            exact = torch.softmax(k[first : i + 1, row] @ q[i, row] * dk**-0.5, dim=0)
            expect_close(
                weights[row, first : i + 1], exact, f"at step {i} row {row} sees the right tokens with wrong weights"
            )


def _judge_reset(seen, allowed, step, row, first):
    picture = Picture(seen > 0, allowed, rows="step", columns="token's step")
    where = f"at step {step} row {row}, whose text began at step {first},"
    leak = (seen > 0) & ~allowed
    if leak[step].any():
        raise Broken(f"{where} sees step {place(leak[step])[0]}, a token of the text before", picture)
    if (blind := (seen[step] == 0) & allowed[step]).any():
        raise Broken(f"{where} does not see step {place(blind)[0]}, a token of its own text", picture)
    total = float(seen[step].sum())
    expect(abs(total - 1) < 1e-6, f"{where} gives its own tokens less than all its weight: it sees empty slots")


@exercise_check("kv_cache.pages", function="append_token", points=3, section="pages")
def pages(learner, rng):
    """Append to sequences in pages that forks share: find page and slot, take a page, or copy one that others hold."""
    size, n_pages, d = integer(rng, 2, 5), 9, 3
    order = torch.randperm(n_pages, generator=rng).tolist()
    store = normal(rng, n_pages, size, d)
    full = size + 1 + integer(rng, 0, size - 1)  # one full page and one begun
    # Rows 0 and 1 are forks of one text, row 2 is another, whose last page is full.
    state = dict(pages=store, table=[order[:2], order[:2], order[2:3]], lengths=[full, full, size], free=order[3:])
    texts = [_read_pages(state, row, size) for row in range(3)]
    for row in (2, 2, 0, 0, 1, 0, 2):
        token = normal(rng, d)
        previous, state = state, learner(state, row, token)
        texts[row] = torch.cat([texts[row], token[None]])
        _judge_pages(state, previous, row, size, n_pages, texts)


def _read_pages(state, row, size):
    positions = torch.arange(state["lengths"][row])[None]
    slots = page_slots(torch.tensor([state["table"][row]]), positions, page_size=size)
    return state["pages"].flatten(0, 1)[slots[0]]


def _judge_pages(state, previous, row, size, n_pages, texts):
    kinds = dict(pages=torch.Tensor, table=list, lengths=list, free=list)
    fits = isinstance(state, dict) and state.keys() == kinds.keys()
    expect(fits, "return the state: a dict of pages, table, lengths and free")
    expect(
        all(isinstance(state[name], kind) for name, kind in kinds.items()), "the state's parts have changed their kind"
    )
    length = len(texts[row])
    where = f"after an append to row {row}, which has {length} tokens in pages of {size},"
    expect(state["lengths"] == [len(text) for text in texts], f"{where} the lengths are wrong")
    needed = [-(-n // size) for n in state["lengths"]]
    counts = [len(pages) for pages in state["table"]]
    expect(counts[row] <= needed[row], f"{where} the row holds a page that it does not need yet")
    expect(counts == needed, f"{where} a row of the table has too few pages")
    held = {page for pages in state["table"] for page in pages}
    others = [pages for i, pages in enumerate(state["table"]) if i != row]
    expect(
        others == [pages for i, pages in enumerate(previous["table"]) if i != row],
        f"{where} another row's table has changed",
    )
    for i, text in enumerate(texts):
        got = _read_pages(state, i, size)
        if i != row:
            expect(
                torch.equal(got, text), f"{where} the text of row {i} has changed: the page was not row {row}'s alone"
            )
            continue
        expect(torch.equal(got[:-1], text[:-1]), f"{where} what it held before is not there any more")
        expect(torch.equal(got[-1], text[-1]), f"{where} its last token does not stand where the table says")
    expect(not held & set(state["free"]), f"{where} a page of the table is still on the free list")
    expect(len(held) + len(state["free"]) == n_pages, f"{where} a page is neither in the table nor free")
    was = previous["table"][row]
    shared = {page for i, pages in enumerate(previous["table"]) if i != row for page in pages}
    kept = [old == new for old, new in zip(was, state["table"][row], strict=False)]
    last_is_copied = (length - 1) % size > 0 and was[-1] in shared
    expect(all(kept[:-1]), f"{where} a full page was copied: nobody will write into it again")
    expect(kept[-1] or last_is_copied, f"{where} a page was copied that no other row was to be kept from")


@exercise_check("kv_cache.quantise", function="quantise", points=2, section="fewer-bits")
def quantise(learner, rng):
    """Store vectors as codes of 4 bits with a scale and a zero point for each group of neighbouring entries."""
    group = integer(rng, 3, 6)
    n, groups = group + 1, group + 2
    x = normal(rng, n, groups * group) + 1.5
    x[1, :group] *= 100
    x[2, group : 2 * group] += 40
    codes, scale, zero = _quantised(learner, x, group, groups)
    expect(bool((codes == codes.round()).all()), f"the code at {place(codes != codes.round())} is not a whole number")
    out = (codes < 0) | (codes > 15)
    expect(not out.any(), f"the code at {place(out)} does not fit into 4 bits, 0..15")
    grouped = x.reshape(n, groups, group)
    spread = grouped.amax(-1) - grouped.amin(-1)
    expect(not (scale <= 0).any(), f"the scale at {place(scale <= 0)} is not positive")
    coarse = scale > spread / 15 * (1 + 1e-3)
    expect(
        not coarse.any(),
        f"the steps of the group at {place(coarse)} are larger than its least and largest entry ask for",
    )
    back = (codes.reshape(n, groups, group) - zero[..., None]) * scale[..., None]
    off = (grouped - back).abs() > scale[..., None] / 2 * (1 + 1e-3) + 1e-6 * grouped.abs()
    row, col = (place(off.flatten(1)) or (0, 0)) if off.any() else (0, 0)
    expect(not off.any(), f"(code - zero) * scale is off by more than half a step at {(row, col)}")
    flat = normal(rng, 2, groups * group)
    flat[0, :group] = 3.25
    flat[1, :group] = 0.0
    codes, scale, zero = _quantised(learner, flat, group, groups, case="where a group's entries are all equal, ")
    back = (codes.reshape(2, groups, group) - zero[..., None]) * scale[..., None]
    expect_close(
        back[:, 0],
        flat[:, :group],
        "where a group's entries are all equal, they do not come back",
        rtol=1e-4,
        atol=1e-5,
    )


def _quantised(learner, x, group, groups, case=""):
    got = learner(x, group)
    expect(isinstance(got, tuple | list) and len(got) == 3, "return three things: codes, scale, zero")
    expect(all(isinstance(part, torch.Tensor) for part in got), "return three tensors: codes, scale, zero")
    codes, scale, zero = (part.double() for part in got)
    expect_tensor(codes, tuple(x.shape), what=f"{case}the codes")
    expect_tensor(scale, (len(x), groups), what=f"{case}the scale")
    expect_tensor(zero, (len(x), groups), what=f"{case}the zero point")
    return codes, scale, zero


@exercise_check(
    "kv_cache.prefix", function="attend_after_prefix", points=2, section="pages", forbids=READY_MADE_ATTENTION
)
def prefix(learner, rng):
    """Attend from many sequences to a prefix that all share and that is kept once, and to what each has of its own."""
    b, n, m, dk, dv = sizes(rng, 5)
    q, keys, values = normal(rng, b, dk), normal(rng, n, dk), normal(rng, n, dv)
    k, v = normal(rng, b, m, dk), normal(rng, b, m, dv)
    got = expect_tensor(learner(q, keys, values, k, v), (b, dv), what="the output")
    (out, lse), (own, own_lse) = _attend_each(q, keys, values), _attend_each(q, k, v)
    mistakes = {
        "the prefix is not seen": own,
        "a sequence does not see its own tokens": out,
        "the two outputs are added, and the weights sum to 2": out + own,
        "the two parts count alike, whatever their scores": (out + own) / 2,
        "each part counts as it has tokens, whatever their scores": (n * out + m * own) / (n + m),
    }
    for message, wrong in mistakes.items():
        expect(not torch.allclose(got, wrong), message)
    share = torch.sigmoid(lse - own_lse)[:, None]
    expect_close(got, share * out + (1 - share) * own, "the output is not attention over both parts")
    case = "with scores of some thousands the output"
    huge = expect_tensor(learner(q * 4000, keys, values, k, v), (b, dv), what=case)
    (out, lse), (own, own_lse) = _attend_each(q * 4000, keys, values), _attend_each(q * 4000, k, v)
    share = torch.sigmoid(lse - own_lse)[:, None]
    expect_close(huge, share * out + (1 - share) * own, f"{case} is not attention over both parts")
    b, n, m, d = 64, 3000, 4, 32
    many = normal(rng, b, d), normal(rng, n, d), normal(rng, n, d), normal(rng, b, m, d), normal(rng, b, m, d)
    message = f"a prefix of {n} tokens that {b} sequences share is to be read, not copied {b} times"
    expect_memory(learner, many, at_most=20_000_000, message=message)


def _attend_each(q, k, v):
    """Output (b, dv) and log-sum-exp (b,) of one query a sequence, over keys that all share or that each has."""
    k, v = (x.expand(len(q), *x.shape[-2:])[:, None] for x in (k, v))
    out, lse = softmax_attention_with_lse(q[:, None, None], k, v)
    return out[:, 0, 0], lse[:, 0, 0]


@exercise_check(
    "kv_cache.kernel",
    function="gather",
    points=2,
    section="pages",
    not_verified="Neither runs your kernel compiled where there is no GPU: there Triton interprets it.",
)
def kernel(learner, rng):
    """Complete a Triton kernel that reads a sequence out of its pages."""
    n_pages = 11
    for size, length in ((4, 16), (4, 7), (5, 33), (3, 1)):
        used = -(-length // size)
        order = torch.randperm(n_pages, generator=rng)[:used]
        store = torch.full((n_pages, size, 16), torch.nan)
        store[order] = normal(rng, used, size, 16).float()
        wanted = store[order].flatten(0, 1)[:length].clone()
        if length % size:
            store[order[-1], length % size :] = torch.nan
        table = torch.cat([order, order.new_full((3,), -1)]).to(torch.int32)
        case = f"with {length} tokens in pages of {size}"
        got = learner(store, table, length)
        expect(isinstance(got, torch.Tensor), "return a tensor")
        expect(
            tuple(got.shape) == (length, 16),
            f"{case} the result is of shape {tuple(got.shape)}, expected {(length, 16)}",
        )
        right = (got == wanted).all(dim=-1)
        expect(
            right.all() or not torch.equal(got.nan_to_num(), store.flatten(0, 1)[:length].nan_to_num()),
            f"{case} the pages are read in the order in which they lie: ask the table",
        )
        expect(bool(right[:size].all()), f"{case} position {place(~right)} is wrong, in the first page")
        expect(
            bool(got.isfinite().all()),
            f"{case} position {place(~got.isfinite())[:1]} comes from where nobody wrote, and the first page is right",
        )
        expect(bool(right.all()), f"{case} the first page is right, and position {place(~right)} is not")
