"""What decoding with grouped keys promises: to read its cache about as fast as the machine reads, and SDPA no faster.

One new token, eight query heads. A plain large read is the fastest of a few over a tensor that no processor's cache holds
(`limits.plain_reads`); it is measured in the same rounds, on as many threads. The more query heads share a key, the more there
is to compute a byte: a processor whose memory outruns its matrix products falls behind its own reads there. On a processor the
kernel is measured beside the blocked form, and both beside FlexAttention, compiled, where that runs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attncourse.grouped_query import grouped_query_decode
from attncourse.profile.cases import compiles, flex_form
from attncourse.profile.limits import READ_BYTES, fastest_read
from attncourse.profile.timing import median_seconds

from .measured_row import Row

HEADS = 8


def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """Measure the share of a plain read's bandwidth, and SDPA with enable_gqa on the same cache,
    by g, length and width.
    """
    rows, ours = [], _decoders(device)
    large = torch.ones(READ_BYTES[device] // 4, device=device)
    _, read, _ = fastest_read(large, seconds=0.1)
    cases = [(g, s, width) for g in (8, 2, 1) for s in (16_384, 65_536) for width in (64, 128)]
    for g, s, width in cases:
        case = f"g {g} of {HEADS}, context {s}, width {width}"
        progress(case)
        rng = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(1, heads, length, width, generator=rng).to(device)
            for heads, length in ((HEADS, 1), (g, s), (g, s))
        )
        decoders = ours | {
            "SDPA enable_gqa": lambda q, k, v: scaled_dot_product_attention(q, k, v, enable_gqa=True),
            "FlexAttention compiled": flex_form(enable_gqa=True),
        }
        runs = {name: lambda f=f, q=q, k=k, v=v: f(q, k, v) for name, f in decoders.items()}
        if not compiles(runs["FlexAttention compiled"]):
            del runs["FlexAttention compiled"]
        seconds = median_seconds(runs | {"read": read}, rounds=15)
        for name in ours:
            torch.testing.assert_close(runs[name](), runs["SDPA enable_gqa"](), rtol=1e-3, atol=1e-4)
            reached, plain = (k.nbytes + v.nbytes) / seconds[name], large.nbytes / seconds["read"]
            rows.append(Row(f"{name}, plain read, {case}", reached, plain, 0.7, "bandwidth"))
            for other in ("SDPA enable_gqa", "FlexAttention compiled"):
                taken = seconds.get(other, math.nan)
                rows.append(Row(f"{name}, {other}, {case}", seconds[name], taken, 1.0, "speedup"))
    return rows


def _decoders(device: str) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    if device != "cpu":
        return {"decode": grouped_query_decode}
    from attncourse.grouped_query.cpu_kernel import grouped_query_decode_numba  # numba is an extra

    return {"decode": grouped_query_decode, "decode, kernel": grouped_query_decode_numba}
