"""Six kernels, each one idea further than the one before: from a vector sum to FlashAttention's forward pass.

For reading and for breaking: no masks beyond causal and window, no gradients, block sizes as arguments. The sizes have
no tuned table, and the defaults suit the interpreter. Logarithms are natural, inside kernels too.
"""

import torch
from torch import Tensor

from attncourse._shared.language import tl, triton
from attncourse._shared.launch import check_runs_here, in_exact_dtype
from attncourse._shared.validate import check_qkv, check_tensors, check_widths, check_window, require

# The default of FP fusion differs between versions of Triton.
OPTIONS = {"enable_fp_fusion": True}


@triton.jit
def _vector_add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """One program: BLOCK neighbouring elements."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = at < n
    x = tl.load(x_ptr + at, mask=inside)
    y = tl.load(y_ptr + at, mask=inside)
    tl.store(out_ptr + at, x + y, mask=inside)


def vector_add(x: Tensor, y: Tensor, *, block: int = 16) -> Tensor:
    """Return x + y of two vectors (n,), in programs of `block` elements.

    Raises:
        ValueError: two shapes, two dtypes, a dtype that no kernel here takes, a block that is no power of two.
    """
    check_tensors(x=x, y=y)
    require(x.ndim == 1 and x.shape == y.shape, f"x and y must be (n,), got {tuple(x.shape)} and {tuple(y.shape)}")
    _check("vector_add", x, y, span=len(x), block=block)
    grid = (triton.cdiv(len(x), block),)
    return _run(
        lambda x, y, out: _vector_add_kernel[grid](x, y, out, len(x), BLOCK=block, **OPTIONS),
        x.contiguous(),
        y.contiguous(),
    )


@triton.jit
def _softmax_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """One program: one row of n numbers, all of them in registers."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    # exp(-inf) is 0: what pads the row to a power of two has no share in the sum.
    x = tl.load(x_ptr + row * n + at, mask=at < n, other=float("-inf")).to(tl.float32)
    weights = tl.exp(x - tl.max(x, 0))
    tl.store(out_ptr + row * n + at, weights / tl.sum(weights, 0), mask=at < n)


def softmax(x: Tensor) -> Tensor:
    """Return the softmax over the rows of (rows, n), each row held by one program as a whole."""
    _check_matrix("softmax", x=x)
    block = triton.next_power_of_2(x.shape[1])
    return _run(lambda x, out: _softmax_kernel[(len(x),)](x, out, x.shape[1], BLOCK=block, **OPTIONS), x)


@triton.jit
def _long_softmax_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """One program: one row, BLOCK numbers at a time, read twice: for the maximum and the sum, then for the weights."""
    row = tl.program_id(0).to(tl.int64)
    top, total = float("-inf"), 0.0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * n + at, mask=at < n, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x, 0))
        # A row of nothing but -inf so far has no maximum to subtract: -inf - -inf is NaN.
        shift = tl.where(new_top > float("-inf"), new_top, 0.0)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), 0)  # the sum so far is relative to the old top
        top = new_top
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * n + at, mask=at < n, other=float("-inf")).to(tl.float32)
        tl.store(out_ptr + row * n + at, tl.exp(x - top) / total, mask=at < n)


def long_softmax(x: Tensor, *, block: int = 16) -> Tensor:
    """Return the softmax over the rows of (rows, n), `block` numbers at a time:
    a row may be longer than registers hold.

    Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867, algorithm 3.
    """
    _check_matrix("long_softmax", x=x, blocks={"block": block})
    return _run(lambda x, out: _long_softmax_kernel[(len(x),)](x, out, x.shape[1], BLOCK=block, **OPTIONS), x)


@triton.jit
def _matmul_kernel(
    a_ptr, b_ptr, out_ptr, m, n, inner, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_INNER: tl.constexpr
):
    """One program: one tile (BLOCK_M, BLOCK_N) of the product, summed over strips of BLOCK_INNER."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, inner, BLOCK_INNER):
        at = start + tl.arange(0, BLOCK_INNER)
        a_inside = (rows < m)[:, None] & (at < inner)[None, :]
        b_inside = (at < inner)[:, None] & (cols < n)[None, :]
        a = tl.load(a_ptr + rows[:, None] * inner + at[None, :], mask=a_inside, other=0.0)  # (BLOCK_M, BLOCK_INNER)
        b = tl.load(b_ptr + at[:, None] * n + cols[None, :], mask=b_inside, other=0.0)  # (BLOCK_INNER, BLOCK_N)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    out_inside = (rows < m)[:, None] & (cols < n)[None, :]
    tl.store(out_ptr + rows[:, None] * n + cols[None, :], acc.to(out_ptr.dtype.element_ty), mask=out_inside)


def matmul(a: Tensor, b: Tensor, *, block: int = 16) -> Tensor:
    """Return (m, inner) times (inner, n), by square tiles, summed in float32.

    Raises:
        ValueError: no two matrices that go together, a dtype that no kernel here takes, a block that is no power of two
            or is below the 16 that `tl.dot` asks for.
    """
    _check_matrix("matmul", a=a, b=b, blocks={"block": block}, least=16)
    require(a.shape[1] == b.shape[0], f"a's columns must be b's rows, got {tuple(a.shape)} and {tuple(b.shape)}")
    (m, inner), n = a.shape, b.shape[1]

    def launch(a, b, out):
        grid = triton.cdiv(m, block), triton.cdiv(n, block)
        _matmul_kernel[grid](a, b, out, m, n, inner, BLOCK_M=block, BLOCK_N=block, BLOCK_INNER=block, **OPTIONS)

    return _run(launch, a, b, shape=(m, n))


@triton.jit
def _load_rows(ptr, stride, rows, n, D: tl.constexpr):
    """(rows, D) of a matrix with n rows; zeros outside."""
    return tl.load(ptr + rows[:, None] * stride + tl.arange(0, D)[None, :], mask=(rows < n)[:, None], other=0.0)


@triton.jit
def _attention_in_registers_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, q_h, q_t, k_h, k_s, v_h, v_s, out_h, out_t, t, s, scale,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against all s keys at once, their scores in registers."""
    rows, cols = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S)
    head = tl.program_id(1).to(tl.int64)
    q = _load_rows(q_ptr + head * q_h, q_t, rows, t, D)  # (BLOCK_T, D)
    k = _load_rows(k_ptr + head * k_h, k_s, cols, s, D)  # (BLOCK_S, D)
    v = _load_rows(v_ptr + head * v_h, v_s, cols, s, D)  # (BLOCK_S, D)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (BLOCK_T, BLOCK_S)
    scores = tl.where((cols < s)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    out = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / tl.sum(weights, 1)[:, None]
    at = out_ptr + head * out_h + rows[:, None] * out_t + tl.arange(0, D)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=(rows < t)[:, None])


def attention_in_registers(q: Tensor, k: Tensor, v: Tensor, *, block_t: int = 16) -> Tensor:
    """Return attention of (b, h, t, d) to few keys (b, h, s, d): no scores reach memory, and all keys must fit at once.

    Raises:
        ValueError: as `flash_attention`; more than 256 keys.
    """
    require(k.shape[2] <= 256, f"attention_in_registers holds at most 256 keys, got {k.shape[2]}")
    block_s = max(16, triton.next_power_of_2(k.shape[2]))
    _check_attention("attention_in_registers", q, k, v, block_t=block_t, block_s=block_s)

    heads = [x.flatten(0, 1) for x in (q, k, v)]

    def launch(q, k, v, out):
        grid = triton.cdiv(q.shape[1], block_t), len(q)
        _attention_in_registers_kernel[grid](
            q, k, v, out, *_strides(q, k, v, out), q.shape[1], k.shape[1], q.shape[2] ** -0.5,
            D=q.shape[2], BLOCK_T=block_t, BLOCK_S=block_s, **OPTIONS,
        )  # fmt: skip

    return _run(launch, *heads).view(q.shape)


@triton.jit
def _flash_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, q_h, q_t, k_h, k_s, v_h, v_s, out_h, out_t, t, s, window, scale,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against its keys, BLOCK_S of them at a time."""
    first = tl.program_id(0) * BLOCK_T
    rows = first + tl.arange(0, BLOCK_T)
    position = rows + s - t  # causal masks are aligned to the end
    head = tl.program_id(1).to(tl.int64)  # a head may begin beyond the 2^31 elements that 32 bits count
    q = _load_rows(q_ptr + head * q_h, q_t, rows, t, D)  # (BLOCK_T, D)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    acc = tl.zeros((BLOCK_T, D), tl.float32)
    end = s
    if CAUSAL:
        end = tl.minimum(s, first + BLOCK_T + s - t)  # behind it are only keys that the last query may not see
    for start in range(0, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_ptr + head * k_h, k_s, cols, s, D)  # (BLOCK_S, D)
        v = _load_rows(v_ptr + head * v_h, v_s, cols, s, D)  # (BLOCK_S, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (BLOCK_T, BLOCK_S)
        scores = tl.where((cols < s)[None, :], scores, float("-inf"))
        if CAUSAL:  # noqa: SIM102 (the compiler takes this branch, the kernel the next)
            # A tile whose last key the first query may see needs no test.
            if start + BLOCK_S - 1 > first + s - t:
                scores = tl.where(cols[None, :] <= position[:, None], scores, float("-inf"))
        if WINDOW:
            scores = tl.where(cols[None, :] > position[:, None] - window, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet keeps -inf, and -inf - -inf is NaN: shift by 0 instead.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp(scores - shift[:, None])
        rescale = tl.exp(top - shift)  # what stands so far is relative to the old maximum
        total = total * rescale + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        top = new_top
    total = tl.where(total > 0, total, 1.0)  # a row that saw nothing gives zeros, and -inf as log-sum-exp
    out = acc / total[:, None]
    at = out_ptr + head * out_h + rows[:, None] * out_t + tl.arange(0, D)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=(rows < t)[:, None])
    tl.store(lse_ptr + head * t + rows, top + tl.log(total), mask=rows < t)


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    block_t: int = 16,
    block_s: int = 16,
) -> Tensor:
    """Return attention of q (b, h, t, d) to k and v (b, h, s, d) by tiles, FlashAttention's forward pass.

    Dao 2023, https://arxiv.org/abs/2307.08691, algorithm 1. A window implies causal.

    Raises:
        ValueError: shapes that do not go together, a width or block that is no power of two of at least 16, inputs that
            want gradients, a dtype that no kernel here takes.
    """
    return flash_attention_with_lse(q, k, v, causal=causal, window=window, block_t=block_t, block_s=block_s)[0]


def flash_attention_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    block_t: int = 16,
    block_s: int = 16,
) -> tuple[Tensor, Tensor]:
    """Return the output (b, h, t, d), and the float32 log-sum-exp (b, h, t) of each row of scores."""
    check_window(window)
    _check_attention("flash_attention", q, k, v, block_t=block_t, block_s=block_s)
    lse = torch.empty(q.shape[:3], device=q.device, dtype=torch.float32)

    def launch(q, k, v, out):
        grid = triton.cdiv(q.shape[1], block_t), len(q)
        _flash_attention_kernel[grid](
            q, k, v, out, lse, *_strides(q, k, v, out), q.shape[1], k.shape[1], window or 0, q.shape[2] ** -0.5,
            D=q.shape[2], BLOCK_T=block_t, BLOCK_S=block_s, CAUSAL=causal or window is not None,
            WINDOW=window is not None, **OPTIONS,
        )  # fmt: skip

    heads = [x.flatten(0, 1) for x in (q, k, v)]  # views, where batch and heads lie as they do in a contiguous tensor
    return _run(launch, *heads).view(q.shape), lse


def _run(launch, *inputs: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return what launch(*inputs, out) writes into an output of the first input's dtype,
    and of this shape (default: its).
    """

    def into_new(*inputs):
        out = inputs[0].new_empty(shape or inputs[0].shape)
        if out.numel() > 0:
            launch(*inputs, out)
        return (out,)

    return in_exact_dtype(into_new, *inputs)[0].to(inputs[0].dtype)


def _strides(*tensors: Tensor) -> list[int]:
    """Return the strides of heads and length of (heads, length, width) tensors; the width lies together."""
    return [stride for x in tensors for stride in x.stride()[:2]]


def _check(name: str, *tensors: Tensor, span: int, least: int = 1, **blocks: int) -> None:
    """Check `span`, how many elements a program addresses by 32 bits, and that blocks are powers of two."""
    check_runs_here(name, *tensors)
    require(not any(x.requires_grad for x in tensors), f"{name} has no backward pass: detach its inputs")
    require(span < 2**31, f"{name} counts elements by 32 bits, got {span} of them")
    check_widths(**blocks)
    for which, size in blocks.items():
        power = size >= least and size & (size - 1) == 0
        require(power, f"{name}: {which} must be a power of two of at least {least}, got {size}")


def _check_matrix(name: str, *, blocks: dict[str, int] | None = None, least: int = 1, **matrices: Tensor) -> None:
    check_tensors(**matrices)
    for which, x in matrices.items():
        require(x.ndim == 2 and x.is_contiguous(), f"{name} takes a contiguous matrix {which}, got {tuple(x.shape)}")
    span = max(x.numel() for x in matrices.values())
    _check(name, *matrices.values(), span=span, least=least, **(blocks or {}))


def _check_attention(name: str, q: Tensor, k: Tensor, v: Tensor, **blocks: int) -> None:
    check_qkv(q, k, v)
    require(q.shape[1] == k.shape[1], f"{name} takes as many key heads as query heads, got {k.shape[1]}, {q.shape[1]}")
    require(q.shape[3] == v.shape[3], f"{name} takes values as wide as the keys, got {v.shape[3]} and {q.shape[3]}")
    for which, x in (("q", q), ("k", k), ("v", v)):
        require(x.stride(3) == 1, f"{name}: the width of {which} must lie together, got stride {x.stride(3)}")
    span = max(x.shape[2] * x.stride(2) for x in (q, k, v))
    _check(name, q, k, v, span=span, least=16, width=q.shape[3], **blocks)
