"""What the compile gate compiles: a file of cases a room, and beside it what the compiler made of them.

`cases(capability)` yields (kernel, case in words, dtype, constants that are known, config) for a chip. It imports the kernels
when it is called, in a process in which Triton compiles.
"""


def on_chip(capability: int, settings: list[tuple]) -> list[tuple]:
    """Those settings, each beginning with a dtype, that a chip has: Triton refuses bfloat16 before sm_80."""
    return [setting for setting in settings if setting[0] != "bf16" or capability >= 80]


def bits_of(dtype: str) -> int:
    """Return the bits of a number, as `launch_config` takes them."""
    return 32 if dtype == "fp32" else 16
