"""Input errors of multi-head attention, shared by the definition and the launcher."""

from torch import Tensor

from attncourse._shared.validate import check_tensors, check_widths, require


def check_projections(
    x: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, *, n_heads: int
) -> None:
    """Matrices (out, in) that fit the inputs' widths and each other, with outputs that n_heads divides."""
    check_widths(n_heads=n_heads)
    matrices = dict(w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o)
    check_tensors(x=x, context=context, **matrices)
    check_sequences(x, context, d_model=w_q.shape[-1], d_context=w_k.shape[-1])
    shapes = "got " + ", ".join(f"{name} {tuple(w.shape)}" for name, w in matrices.items())
    require(all(w.ndim == 2 for w in matrices.values()), f"projections must be matrices (out, in), {shapes}")
    require(w_q.shape[0] == w_k.shape[0], f"w_q and w_k must have equally many rows, {shapes}")
    require(w_k.shape[1] == w_v.shape[1], f"w_k and w_v must read one width, {shapes}")
    require(w_v.shape[0] == w_o.shape[1], f"w_o must have a column for each row of w_v, {shapes}")
    fits = w_q.shape[0] % n_heads == 0 and w_v.shape[0] % n_heads == 0
    require(fits, f"the {n_heads} heads must divide the rows of w_q, w_k and w_v, {shapes}")


def check_sequences(x: Tensor, context: Tensor, *, d_model: int, d_context: int) -> None:
    """x is (b, t, d_model) and context, which is read, (b, s, d_context)."""
    fits = x.ndim == context.ndim == 3 and x.shape[0] == context.shape[0]
    require(
        fits and (x.shape[-1], context.shape[-1]) == (d_model, d_context),
        f"x must be (b, t, {d_model}) and context (b, s, {d_context}), got {tuple(x.shape)} and {tuple(context.shape)}",
    )
