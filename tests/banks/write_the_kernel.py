"""Solutions of the unit `write_the_kernel`: right ones written differently, and mistakes."""

import torch
import triton
import triton.language as tl

import attncourse
from attncourse.check.replay import by_replay
from tests.banks.kinds import Bank, Wrong

DEVICE = attncourse.device()

# write_the_kernel.add


@triton.jit
def _add_kernel(x_ptr, y_ptr, out_ptr, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if KIND == 1:
        at = tl.arange(0, BLOCK)
    inside = at < n
    if KIND == 7:
        x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    else:
        x = tl.load(x_ptr + at, mask=inside, other=0.0)
        y = tl.load(y_ptr + at, mask=inside, other=0.0)
    if KIND == 2:
        tl.store(out_ptr + at, x + y)
    elif KIND == 3:
        tl.store(out_ptr + at, x + y, mask=at <= n)
    elif KIND == 4:
        tl.store(out_ptr + at, x, mask=inside)
    elif KIND == 5:
        tl.store(out_ptr + at, x + y, mask=at < n - 1)
    elif KIND == 6:
        tl.store(out_ptr + at, x - y, mask=inside)
    else:
        tl.store(out_ptr + at, x + y, mask=inside)


def _add(x, y, out, kind=0, programs=None):
    x, y, out = (z.to(DEVICE) for z in (x, y, out))
    grid = (triton.cdiv(len(x), 16) if programs is None else programs,)
    _add_kernel[grid](x, y, out, len(x), KIND=kind, BLOCK=16)
    return out


def add_masked(x, y, out):
    return _add(x, y, out)


@triton.jit
def _add_one_program_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x, y = tl.load(x_ptr + at, mask=at < n), tl.load(y_ptr + at, mask=at < n)
        tl.store(out_ptr + at, x + y, mask=at < n)


def add_in_one_program(x, y, out):
    x, y, out = x.to(DEVICE), y.to(DEVICE), out.to(DEVICE)
    _add_one_program_kernel[(1,)](x, y, out, len(x), BLOCK=16)
    return out


def add_every_program_the_same(x, y, out):
    return _add(x, y, out, kind=1)


def add_without_mask(x, y, out):
    return _add(x, y, out, kind=2)


def add_x_alone(x, y, out):
    return _add(x, y, out, kind=4)


def add_drops_the_last(x, y, out):
    return _add(x, y, out, kind=5)


def add_subtracts(x, y, out):
    return _add(x, y, out, kind=6)


def add_loads_without_mask(x, y, out):
    return _add(x, y, out, kind=7)


def add_only_the_sum(x, y, out):
    return _add(x, y, torch.empty_like(x))


def add_in_pytorch(x, y, out):
    torch.add(x, y, out=out[: len(x)])
    return out


def add_in_pytorch_after_a_launch(x, y, out):
    _add(x, y, out)
    out[: len(x)] = x + y
    return out


def add_in_numpy(x, y, out):
    out.numpy()[: len(x)] = x.numpy() + y.numpy()
    return out


# write_the_kernel.softmax


@triton.jit
def _soften_kernel(x_ptr, out_ptr, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    top, total = float("-inf"), 0.0
    pad = float("-inf")
    if KIND == 1:
        pad = 0.0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * n + at, mask=at < n, other=pad)
        if KIND == 6:
            x = x * 0.5
        if KIND == 7:
            x = tl.maximum(x, -400.0)
        new_top = tl.maximum(top, tl.max(x, 0))
        if KIND == 3:
            new_top = 0.0
        if KIND == 4:
            total = total + tl.sum(tl.exp(x - new_top), 0)
        else:
            total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), 0)
        if KIND == 5:
            total = tl.sum(tl.exp(x - new_top), 0)
        top = new_top
        if KIND == 3:
            top = 0.0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * n + at, mask=at < n, other=float("-inf"))
        if KIND == 6:
            x = x * 0.5
        if KIND == 7:
            x = tl.maximum(x, -400.0)
        weights = tl.exp(x - top) / total
        if KIND == 2:
            weights = tl.exp(x - top)
        tl.store(out_ptr + row * n + at, weights, mask=at < n)


def _soften(x, kind=0):
    x = x.contiguous().to(DEVICE)
    out = torch.empty_like(x)
    _soften_kernel[(len(x),)](x, out, x.shape[1], KIND=kind, BLOCK=16)
    return out


def soften_online(x):
    return _soften(x)


@triton.jit
def _soften_three_passes_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    base = tl.program_id(0) * n
    top, total = float("-inf"), 0.0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.max(tl.load(x_ptr + base + at, mask=at < n, other=float("-inf")), 0))
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(tl.load(x_ptr + base + at, mask=at < n, other=float("-inf")) - top), 0)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + base + at, mask=at < n, other=0.0)
        tl.store(out_ptr + base + at, tl.exp(x - top) / total, mask=at < n)


def soften_in_three_passes(x):
    x = x.contiguous().to(DEVICE)
    out = torch.empty_like(x)
    _soften_three_passes_kernel[(len(x),)](x, out, x.shape[1], BLOCK=16)
    return out


def soften_pads_with_zeros(x):
    return _soften(x, kind=1)


def soften_without_division(x):
    return _soften(x, kind=2)


def soften_without_maximum(x):
    return _soften(x, kind=3)


def soften_forgets_to_rescale(x):
    return _soften(x, kind=4)


def soften_last_piece_alone(x):
    return _soften(x, kind=5)[:, :16]


def soften_halves_the_scores(x):
    return _soften(x, kind=6)


def soften_very_negative(x):
    return _soften(x, kind=7)


def soften_ready_made(x):
    return torch.softmax(x, dim=-1)


# write_the_kernel.product


@triton.jit
def _multiply_kernel(a_ptr, b_ptr, out_ptr, m, n, inner, KIND: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, inner, BLOCK):
        at = start + tl.arange(0, BLOCK)
        a_inside = (rows < m)[:, None] & (at < inner)[None, :]
        b_inside = (at < inner)[:, None] & (cols < n)[None, :]
        a = tl.load(a_ptr + rows[:, None] * inner + at[None, :], mask=a_inside, other=0.0)
        if KIND == 2:
            b = tl.load(b_ptr + at[None, :] * n + cols[:, None], mask=tl.trans(b_inside), other=0.0)
        else:
            b = tl.load(b_ptr + at[:, None] * n + cols[None, :], mask=b_inside, other=0.0)
        strip = tl.dot(a, b, input_precision="ieee")
        if KIND == 3:
            acc = strip.to(tl.float32)
        elif KIND == 4:
            acc = (acc + strip).to(a_ptr.dtype.element_ty).to(tl.float32)
        else:
            acc += strip
    inside = (rows < m)[:, None] & (cols < n)[None, :]
    tl.store(out_ptr + rows[:, None] * n + cols[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)


def _multiply(a, b, kind=0, grid=None):
    a, b = (x.contiguous().to(DEVICE) for x in (a, b))
    (m, inner), n = a.shape, b.shape[1]
    out = a.new_zeros(m, n)
    grid = grid or (triton.cdiv(m, 16), triton.cdiv(n, 16))
    _multiply_kernel[grid](a, b, out, m, n, inner, KIND=kind, BLOCK=16)
    return out


def multiply_by_tiles(a, b):
    return _multiply(a, b)


@triton.jit
def _multiply_by_rows_kernel(a_ptr, b_ptr, out_ptr, n, inner, BLOCK: tl.constexpr):
    row, col = tl.program_id(0), tl.program_id(1)
    total = 0.0
    for start in range(0, inner, BLOCK):
        at = start + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + row * inner + at, mask=at < inner, other=0.0).to(tl.float32)
        total += tl.sum(a * tl.load(b_ptr + at * n + col, mask=at < inner, other=0.0), 0)
    tl.store(out_ptr + row * n + col, total)


def multiply_entry_by_entry(a, b):
    a, b = a.contiguous().to(DEVICE), b.contiguous().to(DEVICE)
    out = a.new_zeros(a.shape[0], b.shape[1])
    _multiply_by_rows_kernel[tuple(out.shape)](a, b, out, b.shape[1], a.shape[1], BLOCK=64)
    return out


def multiply_transposed(a, b):
    return _multiply(a, b, kind=2)


def multiply_keeps_one_strip(a, b):
    return _multiply(a, b, kind=3)


def multiply_sums_in_half(a, b):
    return _multiply(a, b, kind=4)


def multiply_first_tiles_alone(a, b):
    return _multiply(a, b, grid=(1, 1))


def multiply_ready_made(a, b):
    return a @ b


def multiply_and_add(a, b):
    return torch.addmm(a.new_zeros(a.shape[0], b.shape[1]), a, b)


def multiply_in_numpy(a, b):
    return torch.from_numpy(a.numpy() @ b.numpy())


def multiply_flattened(a, b):
    return _multiply(a, b).flatten()


# write_the_kernel.flash


@triton.jit
def _flash_kernel(q_ptr, k_ptr, v_ptr, out_ptr, t, s, KIND: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    wide = tl.arange(0, D)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q = tl.load(q_ptr + rows[:, None] * D + wide[None, :], mask=(rows < t)[:, None], other=0.0)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    scale = 0.25
    if KIND == 1:
        scale = 1.0
    for start in range(0, s, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        inside = (cols < s)[:, None]
        k = tl.load(k_ptr + cols[:, None] * D + wide[None, :], mask=inside, other=0.0)
        v = tl.load(v_ptr + cols[:, None] * D + wide[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = cols[None, :] <= (rows + s - t)[:, None]
        if KIND == 2:
            visible = (cols < s)[None, :] & (rows >= 0)[:, None]
        if KIND == 3:
            visible = (cols[None, :] <= rows[:, None]) & (cols < s)[None, :]
        scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        if KIND == 7:
            new_top = tl.zeros((BLOCK,), tl.float32)
            shift = new_top
        if KIND == 4:
            shift = new_top
        rescale = tl.exp(top - shift)
        if KIND == 5:
            rescale = tl.full((BLOCK,), 1.0, tl.float32)
        weights = tl.exp(scores - shift[:, None])
        total = total * rescale + tl.sum(weights, 1)
        if KIND != 6:
            acc = acc * rescale[:, None]
        acc = tl.dot(weights, v, acc, input_precision="ieee")
        top = new_top
    out = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out_ptr + rows[:, None] * D + wide[None, :], out, mask=(rows < t)[:, None])


def _flash(q, k, v, kind=0):
    q, k, v = (x.contiguous().to(DEVICE) for x in (q, k, v))
    out = torch.empty_like(q)
    _flash_kernel[(triton.cdiv(len(q), 16),)](q, k, v, out, len(q), len(k), KIND=kind, D=16, BLOCK=16)
    return out


def flash_forward(q, k, v):
    return _flash(q, k, v)


@triton.jit
def _flash_by_log_sum_exp_kernel(q_ptr, k_ptr, v_ptr, out_ptr, t, s, D: tl.constexpr, BLOCK: tl.constexpr):
    """Each program takes one query; the output stays normalised, and tiles are merged by their log-sum-exps."""
    row, wide = tl.program_id(0), tl.arange(0, D)
    q = tl.load(q_ptr + row * D + wide)  # (D,)
    out, lse = tl.zeros((D,), tl.float32), float("-inf")
    for start in range(0, tl.maximum(row + s - t + 1, 0), BLOCK):
        cols = start + tl.arange(0, BLOCK)
        seen = cols <= row + s - t
        at = cols[:, None] * D + wide[None, :]
        k = tl.load(k_ptr + at, mask=seen[:, None], other=0.0)
        v = tl.load(v_ptr + at, mask=seen[:, None], other=0.0)
        scores = tl.where(seen, tl.sum(q[None, :] * k, 1) / 4, float("-inf"))
        top = tl.maximum(lse, tl.max(scores, 0))
        new = top + tl.log(tl.exp(lse - top) + tl.sum(tl.exp(scores - top), 0))
        out = out * tl.exp(lse - new) + tl.sum(tl.exp(scores - new)[:, None] * v, 0)
        lse = new
    tl.store(out_ptr + row * D + wide, out)


def flash_by_log_sum_exp(q, k, v):
    q, k, v = (x.contiguous().to(DEVICE) for x in (q, k, v))
    out = torch.zeros_like(q)
    _flash_by_log_sum_exp_kernel[(len(q),)](q, k, v, out, len(q), len(k), D=16, BLOCK=16)
    return out


def flash_not_scaled(q, k, v):
    return _flash(q, k, v, kind=1)


def flash_not_causal(q, k, v):
    return _flash(q, k, v, kind=2)


def flash_aligned_to_the_start(q, k, v):
    return _flash(q, k, v, kind=3)


def flash_nothing_minus_nothing(q, k, v):
    return _flash(q, k, v, kind=4)


def flash_forgets_both_rescales(q, k, v):
    return _flash(q, k, v, kind=5)


def flash_rescales_the_sum_alone(q, k, v):
    return _flash(q, k, v, kind=6)


def flash_without_maximum(q, k, v):
    return _flash(q, k, v, kind=7)


def flash_in_pytorch(q, k, v):
    return formula(q, k, v, mask=torch.ones(len(q), len(k)).tril(len(k) - len(q)).bool()).float()


def flash_ready_made(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


# What the tests below have in common: their inputs and the formulas.


def draw(n, d=16, s=None, seed=0, count=3, factor=1.0):
    rng = torch.Generator().manual_seed(seed)
    rows = (n, s or n, s or n, n)[:count]
    return [factor * torch.randn(m, d, generator=rng) for m in rows]


def formula(q, k, v, mask=None):
    scores = q.double() @ k.double().T / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v.double()


def close(got, wanted, tolerance=1e-3):
    return torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance)


# write_the_kernel.formula_test


@by_replay
def _formula(attention):
    for n, s, factor in ((1, 1, 1), (5, 37, 1), (37, 53, 2), (20, 20, 30)):
        q, k, v = draw(n, s=s, factor=factor)
        torch.testing.assert_close(attention(q, k, v).double(), formula(q, k, v), rtol=1e-3, atol=1e-3)


def formula_compared(results):
    return _formula(results)


def formula_by_loop(results):
    @by_replay
    def test(attention):
        q, k, v = draw(7, s=41)
        for scale in (1.0, 25.0):
            out = attention(q * scale, k * scale, v).double()
            for i, query in enumerate(q.double() * scale):
                weights = torch.stack([query @ key / 4 for key in k.double() * scale]).softmax(dim=0)
                if not close(out[i], weights @ v.double()):
                    return False
        return True

    return test(results)


def formula_tests(cases, tolerance=1e-3, seeded=True):
    @by_replay
    def test(attention):
        for n, s, factor in cases:
            q, k, v = draw(n, s=s, factor=factor) if seeded else torch.randn(3, n, 16)
            assert close(attention(q, k, v), formula(q, k, v), tolerance)

    return test


def formula_of_one_tile(results):
    return formula_tests([(16, 16, 1), (16, 16, 30)])(results)


def formula_of_whole_tiles(results):
    return formula_tests([(32, 48, 2), (32, 48, 30)])(results)


def formula_of_small_scores(results):
    return formula_tests([(37, 53, 2)])(results)


def formula_exactly(results):
    return formula_tests([(37, 53, 2)], tolerance=0.0)(results)


def formula_of_sums(results):
    @by_replay
    def test(attention):
        q, k, v = draw(37)
        assert close(attention(q, k, torch.ones_like(v)), torch.ones_like(v))

    return test(results)


def formula_of_part(part):
    @by_replay
    def test(attention):
        for n, s, factor in ((37, 53, 2), (40, 20, 30)):
            q, k, v = draw(n, s=s, factor=factor)
            assert close(attention(q, k, v)[part], formula(q, k, v)[part])

    return test


def formula_of_the_first_query(results):
    return formula_of_part(0)(results)


def formula_of_the_first_column(results):
    return formula_of_part((slice(None), 0))(results)


def formula_without_seed(results):
    return formula_tests([(37, 37, 1), (37, 37, 1)], seeded=False)(results)


def formula_that_always_holds(results):
    return {"calls": [], "holds": True}


def formula_undecorated(results):
    return True


# write_the_kernel.future_test


@by_replay
def _future(attention):
    q, k, v = draw(48)
    before = attention(q, k, v)
    for position in (5, 17, 24, 31, 40, 47):
        k2, v2 = k.clone(), v.clone()
        k2[position:] += 1
        v2[position:] -= 1
        assert torch.equal(attention(q, k2, v2)[:position], before[:position])


def future_changed(results):
    return _future(results)


def future_cut_off(results):
    @by_replay
    def test(attention):
        q, k, v = draw(40)
        whole = attention(q, k, v)
        return all(close(attention(q[:n], k[:n], v[:n]), whole[:n], 1e-5) for n in (3, 16, 17, 25, 33, 39))

    return test(results)


def future_tests(n, positions, *, keys=True, values=True, own=False, change=1.0):
    @by_replay
    def test(attention):
        q, k, v = draw(n)
        before = attention(q, k, v)
        for position in positions:
            k2, v2 = k.clone(), v.clone()
            k2[position] += change * keys
            v2[position] += change * values
            last = position + own
            assert torch.equal(attention(q, k2, v2)[:last], before[:last])

    return test


def future_of_values(results):
    return future_tests(48, (5, 16, 17, 31, 40), keys=False)(results)


def future_of_keys(results):
    return future_tests(48, (5, 16, 17, 31, 40), values=False)(results)


def future_of_one_tile(results):
    return future_tests(16, (5, 9, 15))(results)


def future_of_the_first_column(results):
    @by_replay
    def test(attention):
        q, k, v = draw(48)
        before = attention(q, k, v)
        for position in (5, 16, 17, 31, 40, 47):
            k2, v2 = k.clone(), v.clone()
            k2[position:] += 1
            v2[position:] -= 1
            assert torch.equal(attention(q, k2, v2)[:position, 0], before[:position, 0])

    return test(results)


def future_with_own_row(results):
    return future_tests(48, (5, 16, 17, 31, 40), own=True)(results)


def future_changes_nothing(results):
    return future_tests(48, (5, 16), change=0.0)(results)


def future_everywhere(results):
    return future_tests(48, range(48))(results)


# write_the_kernel.window_test


def band(n, window):
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return (distance >= 0) & (distance < window)


@by_replay
def _window(attention, window):
    for n in (16, 53):
        q, k, v = draw(n)
        torch.testing.assert_close(attention(q, k, v).double(), formula(q, k, v, band(n, window)), rtol=1e-3, atol=1e-3)


def window_compared(results, window):
    return _window(results, window)


def window_by_change(results, window):
    @by_replay
    def test(attention, window):
        q, k, v = draw(40)
        before = attention(q, k, v)
        assert before.isfinite().all()
        for position in (3, 15, 20, 33):
            v2 = v.clone()
            v2[position] += 100
            moved = (attention(q, k, v2) != before).any(dim=1).nonzero()[:, 0].tolist()
            assert moved == [i for i in range(40) if 0 <= i - position < window]

    return test(results, window)


def window_tests(n, *, too_many=True, too_few=True, own=0, finite=True):
    @by_replay
    def test(attention, window):
        q, k, v = draw(n)
        before = attention(q, k, v)
        if finite:
            assert before.isfinite().all()
        for position in (3, 7):
            v2 = v.clone()
            v2[position] += 100
            moved = ((attention(q, k, v2) - before).abs().amax(dim=1) > 0).tolist()
            for i in range(n):
                distance = i - position
                if too_many and (distance < 0 or distance >= window + own):
                    assert not moved[i]
                if too_few and 0 <= distance < window + own:
                    assert moved[i]

    return test


def window_not_too_many(results, window):
    return window_tests(40, too_few=False)(results, window)


def window_not_too_few(results, window):
    return window_tests(40, too_many=False)(results, window)


def window_of_one_tile(results, window):
    return window_tests(16)(results, window)


def window_without_its_own(results, window):
    return window_tests(40, own=1)(results, window)


def window_of_the_first_queries(results, window):
    @by_replay
    def test(attention, window):
        q, k, v = draw(53)
        assert close(attention(q, k, v)[:20], formula(q, k, v, band(53, window))[:20])

    return test(results, window)


def window_of_the_first_column(results, window):
    @by_replay
    def test(attention, window):
        q, k, v = draw(53)
        assert close(attention(q, k, v)[:, 0], formula(q, k, v, band(53, window))[:, 0])

    return test(results, window)


def window_counts(results, window):
    @by_replay
    def test(attention, window):
        q, k, v = draw(40)
        before = attention(q, k, v)
        assert before.isfinite().all()
        for position in (20, 30):
            v2 = v.clone()
            v2[position] += 100
            assert int((attention(q, k, v2) != before).any(dim=1).sum()) == window

    return test(results, window)


def window_never_calls(results, window):
    @by_replay
    def test(attention, window):
        assert window > 0

    return test(results, window)


# write_the_kernel.gradient_test


def differentiated(q, k, v, dout, causal=True):
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    mask = torch.ones(len(q), len(q)).tril().bool() if causal else None
    return torch.autograd.grad(formula(*leaves, mask=mask), leaves, dout.double())


@by_replay
def _gradients(attention):
    q, k, v, dout = draw(37, 8, count=4)
    _, *grads = attention(q, k, v, dout)
    for got, wanted in zip(grads, differentiated(q, k, v, dout), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


def gradients_compared(results):
    return _gradients(results)


def gradients_by_difference(results):
    @by_replay
    def test(attention):
        q, k, v, dout = (x.double() for x in draw(21, 4, count=4))
        out, *grads = attention(q, k, v, dout)
        for which, step in enumerate(draw(21, 4, seed=1)):
            inputs = [q, k, v]
            inputs[which] = inputs[which] + 1e-6 * step
            change = ((attention(*inputs, dout)[0] - out) * dout).sum() / 1e-6
            if abs(change - (grads[which] * step).sum()) > 1e-3:
                return False
        return True

    return test(results)


def gradient_tests(n=37, *, which=(0, 1, 2), ones=False, last=False, causal=True, seeded=True):
    @by_replay
    def test(attention):
        q, k, v, dout = draw(n, 8, count=4) if seeded else torch.randn(4, n, 8)
        if ones:
            dout = torch.ones_like(dout)
        if last:
            dout = torch.cat([torch.zeros_like(dout[:-1]), dout[-1:]])
        _, *grads = attention(q, k, v, dout)
        wanted = differentiated(q, k, v, dout, causal=causal)
        assert all(close(grads[i], wanted[i], 1e-5) for i in which)

    return test


def gradients_of_v(results):
    return gradient_tests(which=(2,))(results)


def gradients_without_v(results):
    return gradient_tests(which=(0, 1))(results)


def gradients_of_sums(axis):
    @by_replay
    def test(attention):
        q, k, v, dout = draw(37, 8, count=4)
        _, *grads = attention(q, k, v, dout)
        wanted = differentiated(q, k, v, dout)
        return all(close(got.sum(axis), true.sum(axis), 1e-5) for got, true in zip(grads, wanted, strict=True))

    return test


def gradients_of_row_sums(results):
    return gradients_of_sums(1)(results)


def gradients_of_column_sums(results):
    return gradients_of_sums(0)(results)


def gradients_of_one_tile(results):
    return gradient_tests(16)(results)


def gradients_of_ones(results):
    return gradient_tests(ones=True)(results)


def gradients_of_the_last_row(results):
    return gradient_tests(last=True)(results)


def gradients_without_mask(results):
    return gradient_tests(causal=False)(results)


def gradients_entry_by_entry(results):
    @by_replay
    def test(attention):
        q, k, v, dout = draw(40, 4, count=4)
        for i in range(40):
            q2 = q.clone()
            q2[i, 0] += 1e-3
            attention(q2, k, v, dout)

    return test(results)


# write_the_kernel.overflow


def overflow_formula(t, d):
    head = (2**31 - 1) // (t * d) + 1
    return head, head * t * d - 2**32


def overflow_found(t, d):
    addresses = torch.arange(2**22, dtype=torch.int32) * (t * d)
    head = int((addresses < 0).nonzero()[0])
    return head, int(addresses[head])


def overflow_without_sign(t, d):
    head = (2**32 - 1) // (t * d) + 1
    return head, head * t * d - 2**32


def overflow_in_bytes(t, d):
    head = (2**31 - 1) // (2 * t * d) + 1
    return head, head * t * d - 2**32


def overflow_last_good(t, d):
    head = (2**31 - 1) // (t * d)
    return head, head * t * d


def overflow_not_wrapped(t, d):
    head = (2**31 - 1) // (t * d) + 1
    return head, head * t * d


def overflow_saturated(t, d):
    head = (2**31 - 1) // (t * d) + 1
    return head, 2**31 - 1


def overflow_wraps_at_the_largest(t, d):
    head = (2**31 - 1) // (t * d) + 1
    return head, head * t * d - (2**32 - 1)


def overflow_of_a_row(t, d):
    head = (2**31 - 1) // d + 1
    return head, head * d - 2**32


BANK = {
    "write_the_kernel.add": Bank(
        right=[add_masked, add_in_one_program],
        wrong=[
            Wrong(add_every_program_the_same, says="some blocks are not written"),
            Wrong(add_without_mask, says="something is written behind the last element"),
            Wrong(add_x_alone, says="that is x alone"),
            Wrong(add_drops_the_last, says="of the first block not everything is written"),
            Wrong(add_subtracts, says="the first block is not the sum"),
            Wrong(add_only_the_sum, says="return out, as long as it came"),
            Wrong(add_loads_without_mask, says="reads outside its tensors"),
            Wrong(add_in_pytorch, says="it computes with PyTorch (add)"),
            Wrong(add_in_pytorch_after_a_launch, says="outside its kernel it computes with PyTorch (add);"),
            Wrong(add_in_numpy, says="it takes numbers out of a tensor (numpy)"),
        ],
    ),
    "write_the_kernel.softmax": Bank(
        right=[soften_online, soften_in_three_passes],
        wrong=[
            Wrong(soften_pads_with_zeros, says="what pads the last piece has a share"),
            Wrong(soften_without_division, says="with rows of 16, pieces of 16: the weights of a row do not sum to 1"),
            Wrong(soften_without_maximum, says="with large scores there is NaN"),
            Wrong(
                soften_forgets_to_rescale, says="with rows of 48, pieces of 16: the weights of a row do not sum to 1"
            ),
            Wrong(soften_last_piece_alone, says="with rows of 48: the result has shape"),
            Wrong(soften_halves_the_scores, says="this is not its softmax"),
            Wrong(soften_very_negative, says="scores this is not the softmax"),
            Wrong(soften_ready_made, says="it computes with PyTorch (_softmax)"),
        ],
    ),
    "write_the_kernel.product": Bank(
        right=[multiply_by_tiles, multiply_entry_by_entry],
        wrong=[
            Wrong(multiply_transposed, says="the first tile is wrong"),
            Wrong(multiply_keeps_one_strip, says="one alone is there"),
            Wrong(multiply_sums_in_half, says="add up in float32"),
            Wrong(multiply_first_tiles_alone, says="others are not"),
            Wrong(multiply_ready_made, says="it computes with PyTorch (mm)"),
            Wrong(multiply_and_add, says="it computes with PyTorch (addmm)"),
            Wrong(multiply_in_numpy, says="it takes numbers out of a tensor"),
            Wrong(multiply_flattened, says="the product has shape"),
        ],
    ),
    "write_the_kernel.flash": Bank(
        right=[flash_forward, flash_by_log_sum_exp],
        wrong=[
            Wrong(flash_not_scaled, says="the scores are not scaled"),
            Wrong(flash_not_causal, says="every query sees every key"),
            Wrong(flash_aligned_to_the_start, says="the mask is aligned to the start"),
            Wrong(flash_nothing_minus_nothing, says="-inf minus -inf"),
            Wrong(flash_forgets_both_rescales, says="a single tile is right, and over several the output is not"),
            Wrong(flash_rescales_the_sum_alone, says="are rescaled differently"),
            Wrong(flash_without_maximum, says="with scores of about"),
            Wrong(flash_in_pytorch, says="it computes with PyTorch (tril)"),
            Wrong(flash_ready_made, says="it computes with PyTorch (mul)"),
        ],
    ),
    "write_the_kernel.formula_test": Bank(
        right=[formula_compared, formula_by_loop],
        wrong=[
            Wrong(formula_of_one_tile, says="it forgets to rescale where a later tile has the larger maximum"),
            Wrong(formula_of_whole_tiles, says="it drops the keys behind the last full tile"),
            Wrong(formula_of_small_scores, says="it does not subtract the maximum"),
            Wrong(formula_exactly, says="your test fails the kernel, which is right"),
            Wrong(formula_of_sums, says="its scores are not scaled"),
            Wrong(formula_of_the_first_query, says="forgets to rescale where a later tile has the larger maximum"),
            Wrong(formula_of_the_first_column, says="in a column in the middle alone"),
            Wrong(formula_without_seed, says="draw from a generator with a seed"),
            Wrong(formula_that_always_holds, says="your test never calls the attention"),
            Wrong(formula_undecorated, says="leave the line @by_replay above your test"),
        ],
        stateful=True,
    ),
    "write_the_kernel.future_test": Bank(
        right=[future_changed, future_cut_off],
        wrong=[
            Wrong(future_of_values, says="it masks after the softmax"),
            Wrong(future_of_keys, says="a thousandth of every value"),
            Wrong(future_of_one_tile, says="with key tiles of 32 and query tiles of 16 it tests the wrong tiles"),
            Wrong(future_of_the_first_column, says="it sees its future, in a column in the middle alone"),
            Wrong(future_with_own_row, says="your test fails the kernel, which is right"),
            Wrong(future_changes_nothing, says="it sees everything"),
            Wrong(future_everywhere, says="your test makes more than 30 calls"),
        ],
        stateful=True,
    ),
    "write_the_kernel.window_test": Bank(
        right=[window_compared, window_by_change],
        wrong=[
            Wrong(window_not_too_many, says="it sees one key too few"),
            Wrong(window_not_too_few, says="it sees as far ahead as it sees back"),
            Wrong(window_of_one_tile, says="it gives NaN where a tile holds no key"),
            Wrong(window_without_its_own, says="your test fails the kernel, which is right"),
            Wrong(window_of_the_first_queries, says="it sees everything before it, in the row in the middle alone"),
            Wrong(window_of_the_first_column, says="it sees everything before it, in a column in the middle alone"),
            Wrong(window_counts, says="it does not see its own key"),
            Wrong(window_never_calls, says="your test never calls the attention"),
        ],
        stateful=True,
    ),
    "write_the_kernel.gradient_test": Bank(
        right=[gradients_compared, gradients_by_difference],
        wrong=[
            Wrong(gradients_of_v, says="the gradient of q is not scaled"),
            Wrong(gradients_without_v, says="the columns of the gradient of v are out of order"),
            Wrong(gradients_of_row_sums, says="the columns of the gradient of q are out of order"),
            Wrong(gradients_of_column_sums, says="the rows of the gradient of q are out of order"),
            Wrong(gradients_of_one_tile, says="get no gradient"),
            Wrong(gradients_of_ones, says="dout is ignored"),
            Wrong(gradients_of_the_last_row, says="its backward pass forgets the causal test"),
            Wrong(gradients_without_mask, says="your test fails the blocked form, which is right"),
            Wrong(gradients_entry_by_entry, says="your test makes more than 30 calls"),
        ],
        stateful=True,
    ),
    "write_the_kernel.overflow": Bank(
        right=[overflow_formula, overflow_found],
        wrong=[
            Wrong(overflow_without_sign, says="one of the 32 bits is the sign"),
            Wrong(overflow_in_bytes, says="a kernel counts elements, not bytes"),
            Wrong(overflow_last_good, says="that head still begins at an address that fits"),
            Wrong(overflow_not_wrapped, says="its address is not what 32 bits hold"),
            Wrong(overflow_saturated, says="with a sign its address is negative"),
            Wrong(overflow_wraps_at_the_largest, says="its address is another"),
            Wrong(overflow_of_a_row, says="not the first head whose address is wrong"),
        ],
    ),
}
