"""What the compile gate compiles of global and local attention.

Every kernel at the widths and dtypes it claims: a band, hubs and all keys.
"""

from . import bits_of, on_chip

SETTINGS = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("fp32", 64), ("fp32", 128), ("fp32", 256)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.global_local import kernel as room

    kinds = {"band": room.BAND, "hubs": room.HUBS, "all keys": room.ALL}
    for dtype, width in on_chip(capability, SETTINGS):
        chip = dict(width=width, bits=bits_of(dtype), capability=capability)
        for name, keys in kinds.items():
            known = {
                "GROUP": 1, "DK": width, "DV": width, "BLOCK_DK": width, "BLOCK_DV": width, "LENGTHS": keys is not room.HUBS,
                "KEYS": keys.value,
            }  # fmt: skip
            for which in room.CONFIGS:
                if capability < 80 and (dtype, width) == ("fp32", 256) and which != "fwd":
                    continue  # refused there: it does not fit
                kernel = getattr(room, f"_global_local_{which}_kernel")
                yield kernel, f"{dtype} d={width} {name}", dtype, known, room.launch_config(which, **chip)
