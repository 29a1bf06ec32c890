"""What Triton kernels of several rooms share: numbers from bits that not every chip can convert."""

import triton
import triton.language as tl


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
