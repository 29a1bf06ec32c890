"""What the compile gate compiles of the KV cache.

Writing a cache's slots and reading them, as they are and with each codec.
"""

from . import on_chip

SETTINGS = [("fp16", 64), ("fp16", 512), ("bf16", 128), ("fp32", 128)]


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.kv_cache import kernel as room

    for dtype, width in on_chip(capability, SETTINGS):  # heads, and a latent
        for codec, number in room.CODECS.items():
            group, pack = width if codec is room.Plain else 32, 2 if codec is room.Int4 else 1
            case = f"{dtype} {codec.__name__} d={width}"
            append = {
                "CODEC": number, "GROUPS": width // group, "GROUP": group, "BLOCK_GROUPS": width // group,
                "BLOCK_GROUP": group // pack,
            }  # fmt: skip
            yield room._kv_cache_append_kernel, case, dtype, append, room.LAUNCH
            gather = {
                "CODEC": number, "WIDTH": width, "GROUP": group, "BLOCK_S": room.gather_block(width),
                "BLOCK_WIDTH": width,
            }  # fmt: skip
            yield room._kv_cache_gather_kernel, case, dtype, gather, room.LAUNCH
