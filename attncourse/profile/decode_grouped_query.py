"""What decoding with grouped keys promises: to read its cache about as fast as the machine reads, and SDPA no faster.

One new token, eight query heads. A plain large read is the fastest of a few over a tensor that no processor's cache holds
(`limits.plain_reads`); it is measured in the same rounds, on as many threads. The more query heads share a key, the more there is to compute a byte: a processor
whose memory outruns its matrix products falls behind its own reads there.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from attncourse.grouped_query import grouped_query_decode

from .limits import READ_BYTES, fastest_read
from .rows import Row
from .timing import median_seconds

HEADS = 8


def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """The share of a plain read's bandwidth, and SDPA with enable_gqa on the same cache, by g, length and width."""
    rows = []
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
        runs = {
            "ours": lambda q=q, k=k, v=v: grouped_query_decode(q, k, v),
            "read": read,
            "sdpa": lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v, enable_gqa=True),
        }
        torch.testing.assert_close(runs["ours"](), runs["sdpa"](), rtol=1e-3, atol=1e-4)
        seconds = median_seconds(runs, rounds=15)
        ours, theirs = (k.nbytes + v.nbytes) / seconds["ours"], large.nbytes / seconds["read"]
        rows.append(Row(f"decode, plain read, {case}", ours, theirs, 0.7, "bandwidth"))
        rows.append(Row(f"decode, SDPA enable_gqa, {case}", seconds["ours"], seconds["sdpa"], 1.0, "speedup"))
    return rows
