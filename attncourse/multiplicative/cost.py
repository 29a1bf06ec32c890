"""What multiplicative attention moves and computes."""

from attncourse._shared.counts import Count, Size, attention_count


def general_count(size: Size, *, pairs: int, itemsize: int) -> Count:
    """Count multiplicative attention with the general score q W k, in numbers of `itemsize` bytes; `pairs` are per head.

    The product with W is one, shared by all pairs of a query.
    """
    of_weight = Count(2 * size.b * size.h * size.t * size.dk**2, itemsize * size.dk**2)
    return attention_count(size, pairs=pairs, itemsize=itemsize) + of_weight
