"""What the compile gate compiles of linear attention.

The scan of linear attention in each precision and direction, with decay, and the step of decoding.
"""


def cases(capability: int):
    """Yield (kernel, case, dtype, known constants, config) of each."""
    from attncourse.linear_attention import kernel as room

    for bits, width in [(16, 64), (16, 128), (16, 256), (32, 64), (32, 128), (32, 256)]:
        chip = dict(width=width, out=width, bits=bits, capability=capability)
        for decay in (room.OF_STEPS, room.OF_X, room.OF_W):
            config = room.launch_config(**chip, decay=decay.value)
            for reverse in (False, True):
                known = {"X": width, "W": width, "BLOCK_X": width, "DECAY": decay.value, "REVERSE": reverse}
                of = {room.OF_STEPS: "", room.OF_X: ", decay of x", room.OF_W: ", decay of w"}[decay]
                case = f"{bits} bits d={width}{of}" + " reversed" * reverse
                yield room._linear_attention_scan_kernel, case, "fp32", known, config
    for width in (64, 256):
        known = {"F": width, "DV": width, "GROUP": 4, "BLOCK_F": width, "DECAY": True, "NORMALIZE": True}
        yield room._linear_attention_step_kernel, f"d={width}", "fp32", known, room.step_config(width)
