"""What linear attention moves and computes."""

from attncourse._shared.counts import Count, Size


def linear_attention_count(size: Size, *, itemsize: int, features: int | None = None) -> Count:
    """Count linear attention, token by token: each key is added to the state, each query reads it with its normalizer.

    Args:
        itemsize: bytes of a number.
        features: width of a feature vector. Default: that of a key.
    """
    features = size.dk if features is None else features
    flops = 2 * size.b * (size.g * size.s + size.h * size.t) * features * (size.dv + 1)
    numbers = (size.h * size.t + size.g * size.s) * (size.dk + size.dv)
    return Count(flops, itemsize * size.b * numbers)
