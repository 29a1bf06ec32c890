"""One step of decoding as something to run: one new token of each sequence against what a cache holds of it.

A case's inputs are the queries and the storage of a cache, where a kernel reads it; its count is what any form has to move:
the storage, once, beside queries and outputs. Forms that form something as long as the cache on the way (a dequantised copy,
gathered pages) move more than is counted, and it shows in their time.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.cache import CacheShape
from attncourse._shared.case import Case, Draw, Form, kernel_form
from attncourse.grouped_query import grouped_query_decode
from attncourse.kv_cache import Codec, Fp8, Int8, token_nbytes
from attncourse.latent import (
    LatentShape,
    absorb_query,
    expand_output,
    latent_attention_blocked,
    latent_flops,
)

from .cases import Planned, flex_form, sdpa_form
from .counts import Count, Size

WINDOW, PAGE_SIZE = 1024, 16
SHARED = 4  # query heads a stored head, where grouping is not what a case is about


def decode_count(size: Size, *, tokens: int, token_bytes: int, itemsize: int) -> Count:
    """Count one query per head against `tokens` stored tokens of `token_bytes` per sequence;
    queries and outputs of `itemsize`.
    """
    flops = 2 * size.b * size.h * tokens * (size.dk + size.dv)
    queries = itemsize * size.h * (size.dk + size.dv)
    return Count(flops, size.b * (tokens * token_bytes + queries))


# PyTorch's fused attention, which takes fewer heads of keys than of queries.
_sdpa = sdpa_form(enable_gqa=True)


Arranged = tuple[tuple[Tensor, ...], dict[str, Tensor]]


def _in_order(*inputs: Tensor) -> Arranged:
    return inputs, {}


def _launched(room: str, launcher: str, *, module: str, arrange: Callable[..., Arranged]) -> Form:
    """Return a room's launcher as a call; `arrange` as of `_kernels`."""

    def call(*inputs: Tensor) -> Tensor:
        tensors, named = arrange(*inputs)
        return kernel_form(room, launcher, module=module, **named)(*tensors)

    return call


def _planned(
    room: str, launcher: str, planner: str, *, module: str = "kernel", arrange: Callable[..., Arranged]
) -> Planned:
    """Return a room's decoding kernels: its launcher as the call, and its planner's run."""

    def plan(*inputs: Tensor) -> Form:
        tensors, named = arrange(*inputs)
        made = kernel_form(room, planner, module=module, **named)(*tensors)

        def run(*inputs: Tensor) -> Tensor:
            tensors, named = arrange(*inputs)
            out = made.run(*tensors, **named)
            return out[0] if isinstance(out, tuple) else out  # beside a log-sum-exp

        return run

    return Planned(_launched(room, launcher, module=module, arrange=arrange), plan)


def _kernels(
    draw: Draw, room: str, name: str, planner: str, *, arrange: Callable[..., Arranged] = _in_order
) -> dict[str, Form]:
    """Return a room's kernels as forms, "triton" and on a processor "numba", whose launchers' and planners' names
    begin alike.

    Args:
        arrange: a case's inputs -> the tensors that both take in order, and those that they take by name.
    """
    forms = {"triton": _planned(room, f"{name}_triton", planner, arrange=arrange)}
    if draw.device == "cpu":
        forms["numba"] = _planned(room, f"{name}_numba", f"{planner}_numba", module="cpu_kernel", arrange=arrange)
    return forms


def _grouped_kernels(draw: Draw, *, arrange: Callable[..., Arranged] = _in_order) -> dict[str, Form]:
    return _kernels(draw, "grouped_query", "grouped_query_decode", "plan_grouped_query_decode", arrange=arrange)


def _step(size: Size, *, shared: int) -> Size:
    """Return the size with one query, and a stored head for each `shared` query heads, or for all of them."""
    return replace(size, t=1, g=max(1, size.h // shared))


def _stored(size: Size) -> str:
    return f"{size.g} stored head{'s' * (size.g > 1)}"


def grouped_case(size: Size, draw: Draw, *, shared: int, window: int | None = None) -> Case:
    """Return the case of a contiguous cache, a stored head for each `shared` query heads; of a window it holds a ring."""
    size = _step(size, shared=shared)
    tokens = size.s if window is None else min(size.s, window)
    forms = {
        "torch": _sdpa,
        "blocked": grouped_query_decode,
    } | _grouped_kernels(draw)
    forms["flex"] = flex_form(enable_gqa=True)
    shape = CacheShape(size.g, (size.dk, size.dv))
    count = decode_count(size, tokens=tokens, token_bytes=token_nbytes(shape, dtype=draw.dtype), itemsize=draw.itemsize)
    what = _stored(size) + ("" if window is None else f", window {window}")
    return Case(draw.qkv(replace(size, s=tokens)), forms, count, what)


def quantised_case(size: Size, draw: Draw, *, codec: Codec, shared: int = SHARED) -> Case:
    """Return the case of a contiguous cache of 8 bits, a scale per vector.
    Outside the kernel it is dequantised into a copy first.
    """
    size = _step(size, shared=shared)
    q, k, v = draw.qkv(size)
    k_fields, v_fields = codec.encode(k), codec.encode(v)
    fields = len(k_fields)

    def dequantised(form: Form) -> Form:
        def call(q, *stored):
            k, v = (codec.decode(*x, dtype=q.dtype) for x in (stored[:fields], stored[fields:]))
            return form(q, k, v)

        return call

    def beside(q, *stored):
        (k, *k_rest), (v, *v_rest) = stored[:fields], stored[fields:]
        named = dict(zip(("k_scale", "k_zero"), k_rest, strict=False))
        return (q, k, v), named | dict(zip(("v_scale", "v_zero"), v_rest, strict=False))

    forms = {
        "torch": dequantised(_sdpa),
        "blocked": dequantised(grouped_query_decode),
    } | _grouped_kernels(draw, arrange=beside)
    shape = CacheShape(size.g, (size.dk, size.dv))
    stored = token_nbytes(shape, codec=codec, dtype=draw.dtype)
    count = decode_count(size, tokens=size.s, token_bytes=stored, itemsize=draw.itemsize)
    return Case((q, *k_fields, *v_fields), forms, count, f"{_stored(size)}, {type(codec).__name__.lower()}")


def paged_case(size: Size, draw: Draw, *, page_size: int = PAGE_SIZE, shared: int = SHARED) -> Case:
    """Return the case of pages in random order behind a block table.
    Outside the kernel they are gathered into a copy first.
    """
    size = _step(size, shared=shared)
    pages = -(-size.s // page_size)
    n = size.b * pages
    order = torch.randperm(n, generator=torch.Generator().manual_seed(draw.seed))
    table = order.to(device=draw.device, dtype=torch.int32).unflatten(0, (size.b, pages))
    seqlens = torch.full((size.b,), size.s, dtype=torch.int32, device=draw.device)
    q = draw.normal(size.b, size.h, 1, size.dk)
    k, v = (draw.normal(n, size.g, page_size, width) for width in (size.dk, size.dv))

    def gathered(form: Form) -> Form:
        def call(q, k, v, table, seqlens):
            k, v = (x[table].transpose(1, 2).flatten(2, 3)[:, :, : size.s] for x in (k, v))
            return form(q, k, v)

        return call

    def paged(q, k, v, table, seqlens):
        return (q, k, v), dict(block_table=table, cache_seqlens=seqlens)

    forms = {
        "torch": gathered(_sdpa),
        "blocked": gathered(grouped_query_decode),
    } | _grouped_kernels(draw, arrange=paged)
    shape = CacheShape(size.g, (size.dk, size.dv))
    stored = token_nbytes(shape, dtype=draw.dtype)
    count = decode_count(size, tokens=size.s, token_bytes=stored, itemsize=draw.itemsize)
    count += Count(0, table.nbytes + seqlens.nbytes)
    return Case((q, k, v, table, seqlens), forms, count, f"{_stored(size)}, pages of {page_size}")


def latent_case(size: Size, draw: Draw) -> Case:
    """Return the case of latents of width 4 dk and rotated keys of width dk / 2,
    as DeepSeek-V2 has them, read absorbed.
    """
    shape = LatentShape(size.h, 4 * size.dk, size.dk, size.dk // 2, size.dv)
    b, h, rank, rope = size.b, size.h, shape.kv_lora_rank, shape.qk_rope_head_dim
    q_nope, q_rope = (draw.normal(b, h, 1, width) for width in (size.dk, rope))
    latent, k_rope = (draw.normal(b, 1, size.s, width) for width in (rank, rope))
    w_uk, w_uv = (draw.normal(h, width, rank) * rank**-0.5 for width in (size.dk, size.dv))
    forms = {
        "torch": _latent_sdpa,
        "blocked": latent_attention_blocked,
    } | _kernels(draw, "latent", "latent_attention", "plan_latent_decode")
    numbers = b * (size.s * shape.cached + h * (size.dk + rope + size.dv)) + shape.up_projections
    count = Count(b * latent_flops(shape, "absorbed", t=1, s=size.s), draw.itemsize * numbers)
    return Case((q_nope, q_rope, latent, k_rope, w_uk, w_uv), forms, count, f"latents of {rank} and keys of {rope}")


def _latent_sdpa(q_nope, q_rope, latent, k_rope, w_uk, w_uv):
    """Attend absorbed by PyTorch's fused attention, whose keys have to be one tensor."""
    q = torch.cat([absorb_query(q_nope, w_uk), q_rope], dim=-1)
    scale = (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    mixed = scaled_dot_product_attention(q, torch.cat([latent, k_rope], dim=-1), latent, scale=scale, enable_gqa=True)
    return expand_output(mixed, w_uv)


DECODE_CASES: dict[str, Callable[[Size, Draw], Case]] = {
    "decode_mha": lambda size, draw: grouped_case(size, draw, shared=1),
    "decode_gqa_2": lambda size, draw: grouped_case(size, draw, shared=2),
    "decode_gqa_4": lambda size, draw: grouped_case(size, draw, shared=4),
    "decode_mqa": lambda size, draw: grouped_case(size, draw, shared=size.h),
    "decode_latent": latent_case,
    "decode_window": lambda size, draw: grouped_case(size, draw, shared=SHARED, window=WINDOW),
    "decode_int8": lambda size, draw: quantised_case(size, draw, codec=Int8()),
    "decode_fp8": lambda size, draw: quantised_case(size, draw, codec=Fp8()),
    "decode_paged": paged_case,
}
# Those whose cache lies as FlexAttention takes it.
FLEX_CASES = ("decode_mha", "decode_gqa_2", "decode_gqa_4", "decode_mqa", "decode_window")
