"""What the compile gate compiles of what rooms share.

The rows' deltas and the merge of splits.
"""

from . import on_chip


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse._shared import kernel as shared

    for dtype, width in on_chip(capability, [("fp16", 64), ("fp16", 128), ("fp16", 256), ("fp32", 128), ("fp32", 256)]):
        for name, lse in (("", True), (", without dlse", False)):
            delta = {"DV": width, "BLOCK_T": 16, "BLOCK_DV": width, "LSE": lse}
            yield shared._row_delta_kernel, f"{dtype} d={width}{name}", dtype, delta, {"num_warps": 4}
    for dtype, width in on_chip(capability, [("fp16", 64), ("bf16", 512), ("fp32", 128)]):
        merge = {"WIDTH": width, "BLOCK_N": 64, "BLOCK_W": 64}
        yield shared._merge_splits_kernel, f"{dtype} d={width}", dtype, merge, {"num_warps": 4}
