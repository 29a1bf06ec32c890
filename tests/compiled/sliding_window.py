"""What the compile gate compiles of sliding-window attention.

Every kernel at the widths and dtypes it claims.
"""

from . import bits_of, on_chip

SETTINGS = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("fp32", 64), ("fp32", 128)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.sliding_window import kernel as room

    for dtype, width in on_chip(capability, SETTINGS):
        chip = dict(width=width, bits=bits_of(dtype), capability=capability)
        known = {"GROUP": 4, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "LENGTHS": False}
        for which in room.CONFIGS:
            kernel = getattr(room, f"_sliding_window_{which}_kernel")
            yield kernel, f"{dtype} d={width}", dtype, known, room.launch_config(which, **chip)
