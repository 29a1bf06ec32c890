"""What the compile gate compiles of latent attention.

Both kernels of absorbed decoding at DeepSeek's width and smaller ones, over pages and not.
"""

from . import bits_of, on_chip

SETTINGS = [
    ("fp16", 128, 32),
    ("fp16", 256, 64),
    ("fp16", 512, 64),
    ("bf16", 512, 64),
    ("fp32", 128, 32),
    ("fp32", 512, 64),
]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.latent import kernel as room

    for dtype, width, rope in on_chip(capability, SETTINGS):
        for rows, paged in [(16, False), (16, True), (128, False), (128, True)]:
            config = room.launch_config(rows=rows, width=width, bits=bits_of(dtype), capability=capability, paged=paged)
            known = {
                "R": width, "P": rope, "PAGED": paged, "ALIGNED": True, "LENGTHS": True, "POSITIONS": True,
                "BLOCK_R": width, "BLOCK_P": rope,
            }  # fmt: skip
            case = f"{dtype} {width} + {rope}, {rows} queries" + " paged" * paged
            yield room._latent_decode_split_kernel, case, dtype, known, config
