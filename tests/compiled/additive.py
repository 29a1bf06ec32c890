"""What the compile gate compiles of additive attention.

Every kernel, under an added mask, which takes the most registers.
"""

from . import on_chip

SETTINGS = [("fp16", 64), ("fp16", 128), ("bf16", 256), ("fp32", 128), ("fp32", 256)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.additive import kernel as room

    for dtype, width in on_chip(capability, SETTINGS):
        config = room.launch_config(width)
        known = {"DV": width, "BLOCK_DV": width, "A": 512, "LENGTHS": True, "MASK": room.ADDED_MASK}
        for name in ("_additive_fwd_kernel", "_additive_bwd_dq_kernel", "_additive_bwd_dkdv_kernel"):
            yield getattr(room, name), f"{dtype} dv={width}", dtype, known, config
