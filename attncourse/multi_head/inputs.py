"""Input errors of multi-head attention, shared by the definition and the launcher."""

from torch import Tensor

from attncourse._shared.validate import check_sequences, check_tensors, check_widths, shapes_of


def check_projections(
    x: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, *, n_heads: int
) -> None:
    """Check that matrices (out, in) fit the inputs' widths and each other, and have outputs that n_heads divides.

    Args:
        x, context: (b, t, d) and (b, s, dc).
        w_q, w_k, w_v: (h dk, d), (h dk, dc), (h dv, dc).
        w_o: (d_out, h dv).
        n_heads: h.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    check_widths(n_heads=n_heads)
    matrices = dict(w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o)
    check_tensors(x=x, context=context, **matrices)
    check_sequences(x, context, d_model=w_q.shape[-1], d_context=w_k.shape[-1])
    if any(w.ndim != 2 for w in matrices.values()):
        raise ValueError(f"projections must be matrices (out, in), {shapes_of(**matrices)}")
    if w_q.shape[0] != w_k.shape[0]:
        raise ValueError(f"w_q and w_k must have equally many rows, {shapes_of(**matrices)}")
    if w_k.shape[1] != w_v.shape[1]:
        raise ValueError(f"w_k and w_v must read one width, {shapes_of(**matrices)}")
    if w_v.shape[0] != w_o.shape[1]:
        raise ValueError(f"w_o must have a column for each row of w_v, {shapes_of(**matrices)}")
    if w_q.shape[0] % n_heads != 0 or w_v.shape[0] % n_heads != 0:
        raise ValueError(f"the {n_heads} heads must divide the rows of w_q, w_k and w_v, {shapes_of(**matrices)}")
