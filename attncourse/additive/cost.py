"""What additive attention moves and computes, and what fusing saves: the memory of each form, by formula."""

from attncourse._shared.counts import Count, Size
from attncourse._shared.validate import require

FORMS = ("reference", "blocked", "triton")
BYTES = 4  # float32


def peak_bytes(
    form: str, *, rows: int = 1, t: int, s: int, a: int, dv: int, block: int = 16, training: bool = False
) -> int:
    """Return the bytes of float32 that a form holds at its peak, beyond inputs and parameters;
    `peak_memory` measures the same.

    The definition holds its hidden layer (t, s, a) as a sum and as its tanh; in training, the tanh and the gradients of
    both. The blocked form holds this for `block` queries at a time, and the kernel for none. Every form holds the
    projections and the output, in training with their gradients. Terms in t s without a are left out.

    Args:
        t, s, a, dv: queries, keys, width of the hidden layer and of the values.
        block: queries at a time, of the blocked form.
        form: "reference", "blocked" or "triton".
        rows: batch times heads.
        training: forward and backward pass, instead of forward alone.
    """
    require(form in FORMS, f"form must be one of {', '.join(FORMS)}, got {form!r}")
    queries_at_once = {"reference": t, "blocked": min(block, t), "triton": 0}[form]
    hidden = (3 if training else 2) * queries_at_once * s * a
    # Forward: projections, output, log-sum-exp. Backward adds the gradients of all, and of the values.
    linear = 2 * (t + s) * (a + dv) + 2 * t if training else (t + s) * a + t * (dv + 1)
    return BYTES * rows * (hidden + linear)


def additive_count(size: Size, *, pairs: int, hidden: int, itemsize: int) -> Count:
    """Count additive attention: two projections to the hidden layer, for each pair its sum and its product with w_score.

    Args:
        pairs: of positions, per head.
        hidden: width of the hidden layer.
        itemsize: bytes of a number.
    """
    rows = size.b * size.h
    flops = 2 * rows * (size.t + size.s) * hidden * size.dk + rows * pairs * (3 * hidden + 2 * size.dv)
    numbers = rows * (size.t + size.s) * (size.dk + size.dv) + hidden * (2 * size.dk + 1)
    return Count(flops, itemsize * numbers)
