"""What the compile gate compiles of block-sparse attention.

Every kernel at the widths and dtypes it claims, in blocks of 64.
"""

from . import bits_of, on_chip

SETTINGS = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("bf16", 128), ("fp32", 64), ("fp32", 128)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.block_sparse import kernel as room

    for dtype, width in on_chip(capability, SETTINGS):
        chip = dict(width=width, side=64, bits=bits_of(dtype), capability=capability)
        known = {
            "GROUP": 4,
            "DK": width,
            "DV": width,
            "SIDE": 64,
            "BLOCK_DK": width,
            "BLOCK_DV": width,
            "LENGTHS": False,
        }
        for which in room.CONFIGS:
            kernel = getattr(room, f"_block_sparse_{which}_kernel")
            yield kernel, f"{dtype} d={width}", dtype, known, room.launch_config(which, **chip)
