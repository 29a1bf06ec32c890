"""What the compile gate compiles of hard attention.

The kernel at the widths and dtypes it claims, sampling under an added mask: the most registers.
"""

from . import bits_of, on_chip

SETTINGS = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("bf16", 128), ("fp32", 64), ("fp32", 256)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.hard_attention import kernel as room

    for dtype, width in on_chip(capability, SETTINGS):
        config = room.launch_config(width=width, bits=bits_of(dtype), capability=capability)
        known = {
            "GROUP": 4, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "CAUSAL": True,
            "WINDOW": False, "LENGTHS": True, "SOFTCAP": False, "MASK": 2, "SAMPLE": True,
        }  # fmt: skip
        yield room._hard_attention_fwd_kernel, f"{dtype} d={width} causal", dtype, known, config
