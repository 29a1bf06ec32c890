"""What the compile gate compiles of grouped-query attention.

Both kernels of decoding, at the widths and dtypes they claim: paged, plain and of 8 bits; 4 rows a group, and 64.
"""

from . import bits_of, on_chip

SETTINGS = [("fp16", 64), ("fp16", 128), ("fp16", 256), ("bf16", 64), ("bf16", 128), ("fp32", 64), ("fp32", 128)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.grouped_query import kernel as room

    for dtype, width in on_chip(capability, SETTINGS):
        codecs = {"plain": room.PLAIN, "int8": room.INT8, "int4": room.INT4, "fp8": room.FP8}
        for name, codec in codecs.items():
            for rows in (4, 64) if name == "plain" else (4,):
                for paged in (True, False) if name == "plain" else (True,):
                    config = room.launch_config(
                        rows=rows, width=width, bits=bits_of(dtype), capability=capability, paged=paged
                    )
                    known = {
                        "LENGTHS": True, "STARTS": True, "PAGED": paged, "ALIGNED": True, "WINDOW": False,
                        "SOFTCAP": False, "CODEC": codec.value, "K_GROUPS": 1, "V_GROUPS": 1, "DK": width, "DV": width,
                        "BLOCK_DK": width, "BLOCK_DV": width,
                    }  # fmt: skip
                    case = f"{dtype} d={width} {name} cache, {rows} rows" + ("" if paged else ", contiguous")
                    yield room._grouped_query_split_kernel, case, dtype, known, config
                    if (width, rows, paged) == (256, 4, False):  # Gemma 2's heads
                        yield (
                            room._grouped_query_split_kernel,
                            f"{case}, softcap",
                            dtype,
                            known | {"SOFTCAP": True},
                            config,
                        )
