"""Triton for all kernels: what to do where it is missing, a repair of its interpreter where it is old, shared pieces."""

from .launch import interpreter_cannot_loop

try:
    import triton
    import triton.language as tl
    from triton.runtime import interpreter
except ModuleNotFoundError as missing:
    if missing.name != "triton":
        raise
    raise ImportError(
        "impl='triton' and the kernels behind it need Triton, which is not installed: pip install triton, which is there for "
        "Linux alone. Every other impl runs without it",
        name="triton",
    ) from missing

__all__ = ["from_fp8", "interpreter", "tl", "triton"]


def _let_interpreter_loop() -> None:
    """A scalar is an array of one element there: as an index it is that element (Triton 3.7 does the same)."""
    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, *scope) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._patch_lang_tensor = patch_and_mend


if interpreter_cannot_loop():
    _let_interpreter_loop()


@triton.jit
def from_fp8(code):
    """The float32 of a float8_e4m3fn's bits, for chips before sm_89 and the interpreter, which cannot convert them.

    A float16 of the same mantissa and exponent counts exponents from 15 where float8 counts from 7: a factor of 2^8. Its
    one pair of NaNs is all ones (Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433, table 1).
    """
    code = code.to(tl.int32)
    bits = ((code & 0x80) << 8) | ((code & 0x7F) << 7)
    x = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return tl.where((code & 0x7F) == 0x7F, float("nan"), x)
