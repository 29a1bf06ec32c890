"""Checks of the unit `kv_cache`: its bytes, a step of decoding, the forgotten reset, pages, fewer bits, a shared prefix."""

import torch

from attncourse.kv_cache.slots import page_slots
from attncourse.softmax_attention import softmax_attention

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import cycled, integer, lifted, normal, primes
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor, numbers_added, place
from ..picture import Picture

exercise_unit(
    "kv_cache",
    title="The KV cache",
    chapter="kv_cache",
    minutes=110,
    prerequisites=("multi_head",),
)


@exercise_check(
    "kv_cache.bytes",
    function="token_bytes",
    difficulty="easy",
    importance="core",
    points=1,
    section="what-decoding-costs",
)
def token_bytes(learner, rng):
    """Predict the bytes that a model's cache takes for a token, in bfloat16 and in codes of 4 bits."""
    for g, r, words in ((integer(rng, 6, 9), 5, 1), (1, integer(rng, 5, 9), 3), (integer(rng, 5, 9), 1, 2), (7, 2, 5)):
        layers, width = integer(rng, 20, 90), 32 * words
        got = learner(layers, g * r, g, width)
        expect(
            isinstance(got, tuple | list) and len(got) == 2, "return two numbers: bytes in bfloat16, then with 4 bits"
        )
        plain, coded = (expect_number(x) for x in got)
        case = f"for {layers} layers, {g * r} query heads, {g} key/value heads, width {width}"
        entries = 2 * layers * g * width
        expect(r == 1 or plain != 2 * entries * r, f"{case}: query heads share keys and values, and no query is kept")
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
    "kv_cache.step",
    function="decode_step",
    difficulty="medium",
    importance="core",
    points=2,
    section="keep-the-keys-and-values",
    forbids=READY_MADE_ATTENTION,
    may_change=(0,),
)
def step(learner, rng):
    """Attend from one new token to all that came, keeping what later ones will need and nothing else."""
    h, dk, dv = primes(rng, 3, most=11)
    n = integer(rng, 26, 33)
    q, k, v = normal(rng, h, n, dk), normal(rng, h, n, dk), normal(rng, h, n, dv)
    far = *lifted(normal(rng, h, n, dk), normal(rng, h, n, dk), cycled(n, 900.0, -900.0)), normal(rng, h, n, dv)
    wanted, far_wanted = (softmax_attention(*(x[None] for x in text), causal=True)[0] for text in ((q, k, v), far))
    scores = torch.einsum("h t d, h s d -> h t s", q, k) * dk**-0.5
    before = torch.softmax(scores.masked_fill(torch.ones(n, n).triu(0).bool(), -torch.inf), dim=-1) @ v
    state, far_state, added = None, None, []
    # Two texts take turns, so that nothing but the state can carry one of them.
    for i in range(n):
        out, kept = _stepped(learner(state, q[:, i], k[:, i], v[:, i]), (h, dv))
        added.append(numbers_added(state, kept))
        state = kept
        if i == 0:
            expect_close(out, v[:, 0], "the first token sees itself alone, and its output is not its own value")
        else:
            expect(
                not torch.allclose(out, v[:, i]),
                f"at step {i} the output is the token's own value: nothing is kept of the tokens before it",
            )
            expect(not torch.allclose(out, before[:, i]), f"at step {i} the token does not see itself")
            expect_close(out, wanted[:, i], f"at step {i} the output is not attention to all tokens so far")
        case = f"at step {i} of a text whose scores are all near 900, or all near -900, the output"
        out, far_state = _stepped(learner(far_state, *(x[:, i] for x in far)), (h, dv), what=case)
        expect_close(out, far_wanted[:, i], f"{case} is not attention to all tokens so far")
    # A few steps may make room for many tokens; what most steps add is what a token leaves behind.
    expect(
        sorted(added)[n // 2] <= h * (dk + dv) + 4,
        "the state holds more than the keys and values of the tokens so far",
    )


def _stepped(got, shape, what="the output"):
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the output, then the state")
    return expect_tensor(got[0], shape, what=what), got[1]


@exercise_check(
    "kv_cache.reset",
    function="serve_step",
    difficulty="medium",
    importance="useful",
    points=2,
    section="the-forgotten-reset",
    forbids=READY_MADE_ATTENTION,
    may_change=(0,),
)
def reset(learner, rng):
    """Repair a cache whose rows serve one text after another, and show each what others left."""
    b, dk = primes(rng, 2, most=7)
    begins = _draw_begins(rng, b)
    steps = len(begins)
    q, k = lifted(normal(rng, steps, b, dk), normal(rng, steps, b, dk), cycled(steps, 0.0, 900.0, -2e9)[:, None])
    ids = torch.eye(steps, dtype=torch.float64)
    state, seen, allowed = None, torch.zeros(b, steps, steps), torch.zeros(b, steps, steps, dtype=torch.bool)
    for i in range(steps):
        weights, state = _stepped(learner(state, q[i], k[i], ids[i].repeat(b, 1), begins[i]), (b, steps))
        for row in range(b):
            first = int(begins[: i + 1, row].nonzero().max())
            seen[row, i], allowed[row, i, first : i + 1] = weights[row], True
            _judge_reset(seen[row], allowed[row], i, row, first)
            exact = torch.softmax(k[first : i + 1, row] @ q[i, row] * dk**-0.5, dim=0)
            expect_close(
                weights[row, first : i + 1],
                exact,
                f"at step {i} row {row} sees the right tokens with wrong weights",
                rtol=1e-4,  # scores of 2e9 are rounded
            )


def _draw_begins(rng, rows):
    """Return where texts begin, (steps, rows):
    all at once, none for a while, one alone, two together, one after another.
    """
    quiet, together = integer(rng, 5, 9), 64  # the longest text that the exercise promises
    begins = torch.zeros(together + 8, rows, dtype=torch.bool)
    begins[0] = begins[together] = True  # row 1 goes on with the text that it began with until then
    others = [row for row in torch.randperm(rows, generator=rng).tolist() if row != 1]
    begins[quiet, others[0]] = True
    begins[quiet + 3, others[-1]] = True
    begins[quiet + 6, others] = True
    begins[quiet + 8, others[:2]] = begins[quiet + 9, others[1:]] = True  # others[1] says one word
    begins[together + 3, 1] = True
    return begins


def _judge_reset(seen, allowed, step, row, first):
    picture = Picture(seen > 0, allowed, rows="step", columns="token's step")
    where = f"at step {step} row {row}, whose text began at step {first},"
    leak = (seen > 0) & ~allowed
    if leak[step].any():
        raise Broken(f"{where} sees step {place(leak[step])[0]}, a token of the text before", picture)
    total = float(seen[step].sum())
    expect(total > 1 - 1e-6, f"{where} gives its own tokens less than all its weight: it sees empty slots")
    if (blind := (seen[step] == 0) & allowed[step]).any():
        raise Broken(f"{where} does not see step {place(blind)[0]}, a token of its own text", picture)


@exercise_check(
    "kv_cache.pages",
    function="append_token",
    difficulty="hard",
    importance="core",
    points=3,
    section="paged-caches",
    may_change=(0,),
)
def pages(learner, rng):
    """Append to sequences in pages that forks share: find page and slot, take a page, or copy one that others hold."""
    for size in (integer(rng, 3, 6), 2, 1):
        full = 2 * size + integer(rng, 1, size) if size > 1 else 2  # two full pages, and one begun
        # Rows 0 and 1 are forks of one text, row 2 has filled its page, row 3 has none yet; three more left early the
        # text of 0 and 1, in a page that goes on there, at a page's end, and together with the first of the three.
        lengths = [full, full, size, 0, size + size // 2, size, size + size // 2]
        appends = [2, 2, 0, 0, 3, 1, 4, 0, 5, 6, 3]
        appends += [integer(rng, 0, len(lengths)) for _ in range(2 * size)]
        _judge_appends(learner, rng, size, lengths, appends)
        _judge_appends(learner, rng, size, lengths, appends[::-1])


def _judge_appends(learner, rng, size, lengths, appends):
    state, texts = _draw_forks(rng, size, lengths, len(appends))
    n_pages = len(state["pages"])
    for row in appends:
        token = normal(rng, state["pages"].shape[-1])
        previous = _copied(state)
        state = _expect_state(learner(state, row, token), previous)
        texts[row] = torch.cat([texts[row], token[None]])
        _judge_pages(state, previous, row, size, n_pages, texts)


def _draw_forks(rng, size, lengths, spare):
    """Return a state whose rows, but for 2 and 3, are forks of one text that were left at these lengths, and all texts."""
    held = [-(-n // size) for n in lengths]
    n_pages = max(held) + held[2] + spare + len(lengths)
    order = torch.randperm(n_pages, generator=rng).tolist()
    shared, own, free = order[: max(held)], order[max(held) : max(held) + held[2]], order[max(held) + held[2] :]
    table = [own[:] if row == 2 else shared[:n] for row, n in enumerate(held)]
    state = dict(pages=normal(rng, n_pages, size, 13), table=table, lengths=[*lengths], free=free)
    return state, [_read_pages(state, row, size) for row in range(len(lengths))]


def _copied(state):
    return {name: part.clone() if isinstance(part, torch.Tensor) else [*part] for name, part in state.items()} | {
        "table": [[*row] for row in state["table"]]
    }


def _read_pages(state, row, size):
    positions = torch.arange(state["lengths"][row])[None]
    slots = page_slots(torch.tensor([state["table"][row]], dtype=torch.long), positions, page_size=size)
    return state["pages"].flatten(0, 1)[slots[0]]


def _expect_state(state, previous):
    """Return the state with plain numbers in its lists."""
    fits = isinstance(state, dict) and state.keys() == previous.keys()
    expect(fits, "return the state: a dict of pages, table, lengths and free")
    lists = all(isinstance(state[name], list | tuple) for name in ("table", "lengths", "free"))
    expect(lists and isinstance(state["pages"], torch.Tensor), "the state's parts have changed their kind")
    expect_tensor(state["pages"], tuple(previous["pages"].shape), what="the store of pages")
    table = [[int(page) for page in row] for row in state["table"]]
    return state | {"table": table} | {name: [int(n) for n in state[name]] for name in ("lengths", "free")}


def _judge_pages(state, previous, row, size, n_pages, texts):
    length = len(texts[row])
    where = f"after an append to row {row}, which has {length} tokens in pages of {size},"
    expect(state["lengths"] == [len(text) for text in texts], f"{where} the lengths are wrong")
    needed = [-(-n // size) for n in state["lengths"]]
    counts = [len(pages) for pages in state["table"]]
    expect(counts[row] <= needed[row], f"{where} the row holds a page that it does not need yet")
    expect(counts == needed, f"{where} a row of the table has too few pages")
    others, were = ([pages for i, pages in enumerate(x["table"]) if i != row] for x in (state, previous))
    expect(others == were, f"{where} another row's table has changed")
    named = {page for pages in state["table"] for page in pages}
    expect(named <= {*range(n_pages)}, f"{where} the table names a page that does not exist")
    for i, text in enumerate(texts):
        got = _read_pages(state, i, size)
        if i != row:
            expect(
                torch.equal(got, text), f"{where} the text of row {i} has changed: the page was not row {row}'s alone"
            )
            continue
        expect(torch.equal(got[:-1], text[:-1]), f"{where} what it held before is not there any more")
        expect(torch.equal(got[-1], text[-1]), f"{where} its last token does not stand where the table says")
    expect(not named & set(state["free"]), f"{where} a page of the table is still on the free list")
    expect(named | set(state["free"]) == {*range(n_pages)}, f"{where} a page is neither in the table nor free")
    expect(len(set(state["free"])) == len(state["free"]), f"{where} a page is on the free list twice")
    was, now = previous["table"][row], state["table"][row]
    shared = {page for pages in were for page in pages}
    begun = (length - 1) % size > 0  # the token went into a page that the row held
    kept = [old == new for old, new in zip(was, now, strict=False)]
    expect(all(kept[:-1] if begun else kept), f"{where} a full page was copied: nobody will write into it again")
    expect(
        not begun or kept[-1] or was[-1] in shared, f"{where} a page was copied that no other row was to be kept from"
    )
    expect(
        not begun or not kept[-1] or was[-1] not in shared,
        f"{where} its last token stands in a page that another row holds: the page was not row {row}'s alone",
    )


@exercise_check(
    "kv_cache.quantise",
    function="quantise",
    difficulty="medium",
    importance="useful",
    points=2,
    section="quantised-caches",
)
def quantise(learner, rng):
    """Store vectors as codes of 4 bits with a scale and a zero point for each group of neighbouring entries."""
    group, rows, groups = primes(rng, 3)
    x = normal(rng, rows, groups * group) + 1.5
    x[1, :group] *= 100
    x[2, group : 2 * group] += 1e5
    x[0, -group:] = x[0, -group:] / 100 - 7
    x[2, -group:] = -x[2, -group:].abs()
    _judge_codes(learner, x, group)
    _judge_codes(learner, x[:, : 2 * group], 2 * group, "where a vector is one group, ")
    _judge_codes(learner, x[:, :2], 2, "where a group has two entries, ")
    flat = normal(rng, rows, groups * group)
    flat[0, :group], flat[1, :group], flat[2, :group] = 3.25, 0.0, -41.5
    _judge_equal(learner, flat, group, flat[:, :group])
    _judge_equal(learner, flat[:2, :3], 1, flat[:2, :1])


def _judge_codes(learner, x, group, case=""):
    """Judge codes, scales and zero points of groups that each hold different entries."""
    n, groups = len(x), x.shape[1] // group
    codes, scale, zero = _quantised(learner, x, group, groups, case)
    broken = codes != codes.round()
    expect(not broken.any(), f"{case}the code at {place(broken)} is not a whole number")
    out = (codes < 0) | (codes > 15)
    expect(not out.any(), f"{case}the code at {place(out)} does not fit into 4 bits, 0..15")
    grouped, codes = x.reshape(n, groups, group), codes.reshape(n, groups, group)
    spread = grouped.amax(-1) - grouped.amin(-1)
    expect(not (scale <= 0).any(), f"{case}the scale at {place(scale <= 0)} is not positive")
    coarse = scale > spread / 15 * (1 + 1e-3)
    expect(
        not coarse.any(),
        f"{case}the steps of the group at {place(coarse)} are larger than its least and largest entry ask for",
    )
    back = (codes - zero[..., None]) * scale[..., None]
    off = (grouped - back).abs() > scale[..., None] * (0.5 + 1e-3)
    expect(not off.any(), f"{case}(code - zero) * scale is off by more than half a step at {place(off.flatten(1))}")
    for which, end, code in (("least", grouped.argmin(-1), 0), ("largest", grouped.argmax(-1), 15)):
        got, value, true = (part.gather(-1, end[..., None])[..., 0] for part in (codes, back, grouped))
        expect(
            not (got != code).any(), f"{case}the {which} entry of the group at {place(got != code)} has another code"
        )
        far = (value - true).abs() > 1e-3 * scale
        expect(not far.any(), f"{case}the {which} entry of the group at {place(far)} does not come back as it was")


def _judge_equal(learner, x, group, wanted):
    """Judge groups, the first of each vector, whose entries are all equal; `wanted` are these entries."""
    case = "where a group's entries are all equal, "
    groups = x.shape[1] // group
    codes, scale, zero = _quantised(learner, x, group, groups, case)
    expect(bool((codes == codes.round()).all()), f"{case}a code is not a whole number")
    expect(bool(((codes >= 0) & (codes <= 15)).all()), f"{case}a code does not fit into 4 bits")
    back = (codes.reshape(len(x), groups, group) - zero[..., None]) * scale[..., None]
    rows = slice(None) if group == 1 else slice(0, 3)
    expect_close(back[rows, 0], wanted[rows], f"{case}they do not come back", rtol=1e-5)


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
    "kv_cache.prefix",
    function="attend_after_prefix",
    difficulty="medium",
    importance="useful",
    points=2,
    section="prefix-sharing",
    forbids=READY_MADE_ATTENTION,
)
def prefix(learner, rng):
    """Attend from many sequences to a prefix that all share and that is kept once, and to what each has of its own."""
    b, n, m, dk, dv = primes(rng, 5)
    q, keys, values = normal(rng, b, dk), normal(rng, n, dk), normal(rng, n, dv)
    k, v = normal(rng, b, m, dk), normal(rng, b, m, dv)
    got = expect_tensor(learner(q, keys, values, k, v), (b, dv), what="the output")
    nothing = q.new_zeros(b, 0, dk), q.new_zeros(b, 0, dv)
    out, own = _attend_both(q, keys, values, *nothing), _attend_both(q, keys[:0], values[:0], k, v)
    mistakes = {
        "the prefix is not seen": own,
        "a sequence does not see its own tokens": out,
        "the two outputs are added, and the weights sum to 2": out + own,
        "the two parts count alike, whatever their scores": (out + own) / 2,
        "each part counts as it has tokens, whatever their scores": (n * out + m * own) / (n + m),
    }
    for message, wrong in mistakes.items():
        expect(not torch.allclose(got, wrong), message)
    expect_close(got, _attend_both(q, keys, values, k, v), "the output is not attention over both parts")
    one = keys[:1], values[:1], k[:, :1], v[:, :1]
    expect_close(
        learner(q, *one), _attend_both(q, *one), "with one token in each the output is not attention over both parts"
    )
    levels = cycled(b, 900.0, -900.0, 0.0)
    for case, text in {
        "with scores of some thousands the output": (q * 4000, keys, values, k, v),
        "where all scores of a query are near 900, or near -900, the output": _lifted_prefix(q, keys, values, k, v, levels),
        "where a sequence's own tokens score 900 more, or less, than the prefix, the output": _own_lifted(q, keys, values, k, v, levels),
    }.items():  # fmt: skip
        got = expect_tensor(learner(*text), (b, dv), what=case)
        expect_close(got, _attend_both(*text), f"{case} is not attention over both parts")
    for b, n, m, d in ((3, 400, 5, 16), (64, 6000, 4, 32)):
        many = (
            normal(rng, b, d),
            normal(rng, n, d),
            normal(rng, n, d + 1),
            normal(rng, b, m, d),
            normal(rng, b, m, d + 1),
        )
        wanted = _attend_both(*many)
        case = f"with a prefix of {n} tokens and {b} sequences the output is not attention over both parts"
        if n < 1000:
            expect_close(learner(*many), wanted, case)
    message = f"a prefix of {n} tokens that {b} sequences share is to be read, not copied {b} times"
    expect_memory(learner, many, wanted, at_most=40_000_000, message=message)


def _lifted_prefix(q, keys, values, k, v, levels):
    """Return the same text with each sequence's scores at a level of its own."""
    lifted_q, lifted_keys = lifted(q, keys, levels)
    return lifted_q, lifted_keys, values, lifted(q[:, None], k, levels[:, None])[1], v


def _own_lifted(q, keys, values, k, v, levels):
    """Return the same text where only the scores of a sequence's own tokens are at its level."""
    lifted_q, lifted_keys, values, lifted_k, v = _lifted_prefix(q, keys, values, k, v, levels)
    return lifted_q, lifted_keys.index_fill(1, torch.tensor([0]), 0.0), values, lifted_k, v


def _attend_both(q, keys, values, k, v):
    """Return one softmax over the prefix and a sequence's own tokens."""
    scores = torch.cat([q @ keys.T, torch.einsum("b d, b m d -> b m", q, k)], dim=1) * q.shape[1] ** -0.5
    shared, own = torch.softmax(scores, dim=1).split([len(keys), k.shape[1]], dim=1)
    return shared @ values + torch.einsum("b m, b m d -> b d", own, v)


@exercise_check(
    "kv_cache.kernel",
    function="gather",
    difficulty="hard",
    importance="extra",
    points=2,
    section="gathered-or-read-in-place",
    not_verified="Neither runs your kernel compiled where there is no GPU: there Triton interprets it.",
    kernel=True,
)
def kernel(learner, rng):
    """Complete a Triton kernel that reads a sequence out of its pages."""
    n_pages, tail = 11, integer(rng, 2, 5)
    longer = integer(rng, 41, 48)
    cases = (
        (4, 7, 0),
        (4, 16, tail),
        (5, 33, tail),
        (3, 1, tail),
        (1, 9, 0),
        (11, 32, tail),
        (3, 33, 0),
        (7, longer, 1),
    )
    for (
        size,
        length,
        unused,
    ) in cases:  # the table has that many unused entries; with 33 tokens in threes, no page is free
        used = -(-length // size)
        while (order := torch.randperm(n_pages, generator=rng)[:used]).equal(torch.arange(used)):
            continue
        store = torch.full((n_pages, size, 16), torch.nan)
        store[order] = normal(rng, used, size, 16).float()
        wanted = store[order].flatten(0, 1)[:length].clone()
        if length % size:
            store[order[-1], length % size :] = torch.nan
        table = torch.cat([order, order.new_full((unused,), -1)]).to(torch.int32)
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
