"""The input errors of multiplicative attention, alike for every form of it."""

from attncourse._shared.validate import check_axes, check_key_lengths, check_mask, check_tensors, shapes_of


def check_pair(q, k) -> None:
    """q (b, h, t, dq) and k (b, h, s, dk) share batch, heads, dtype and device."""
    check_tensors(q=q, k=k)
    check_axes(q=q, k=k)
    if q.shape[:2] != k.shape[:2]:
        raise ValueError(f"q and k must share batch and heads, got {tuple(q.shape)}, {tuple(k.shape)}")


def check_weight(q, k, weight) -> None:
    """weight is (dq, dk); without one the widths must agree."""
    if weight is None:
        if q.shape[-1] != k.shape[-1]:
            raise ValueError(f"a dot product needs equal widths, got dq={q.shape[-1]}, dk={k.shape[-1]}")
        return
    check_tensors(q=q, weight=weight)
    wanted = (q.shape[-1], k.shape[-1])
    if weight.shape != wanted:
        raise ValueError(f"weight must be (dq, dk) = {wanted}, got {tuple(weight.shape)}")


def check_concat(q, k, weight, w_score) -> None:
    """weight is (a, dq + dk) and w_score (a,)."""
    check_tensors(q=q, weight=weight, w_score=w_score)
    wanted = (w_score.numel(), q.shape[-1] + k.shape[-1])
    if w_score.ndim != 1 or weight.shape != wanted:
        got = shapes_of(weight=weight, w_score=w_score)
        raise ValueError(f"weight must be (a, dq + dk) = {wanted} and w_score (a,), {got}")


def check_reading(q, k, v, key_lengths, mask) -> None:
    """v, key_lengths and mask fit q and k."""
    check_pair(q, k)
    check_tensors(q=q, v=v)
    (b, h, t, _), s = q.shape, k.shape[2]
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v must be (b, h, s, dv) = ({b}, {h}, {s}, dv), got {tuple(v.shape)}")
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    check_mask(mask, shape=(b, h, t, s), like=q)


def check_positions(positions, gaussian, *, scores_shape) -> None:
    """positions is (b, h, t), and a Gaussian has a weight for every score."""
    check_tensors(positions=positions)
    wanted = tuple(scores_shape)
    if positions.shape != wanted[:3]:
        raise ValueError(f"positions must be (b, h, t) = {wanted[:3]}, got {tuple(positions.shape)}")
    if gaussian is not None and gaussian.shape != wanted:
        raise ValueError(f"gaussian must be (b, h, t, s) = {wanted}, got {tuple(gaussian.shape)}")


def check_predictor(q, w_position, v_position, source_lengths) -> None:
    """w_position is (a, dq), v_position (a,), and every batch row has a source length."""
    check_tensors(q=q, w_position=w_position, v_position=v_position)
    check_axes(q=q)
    if v_position.ndim != 1 or w_position.shape != (v_position.numel(), q.shape[-1]):
        got = shapes_of(w_position=w_position, v_position=v_position)
        raise ValueError(f"w_position must be (a, dq) with dq={q.shape[-1]} and v_position (a,), {got}")
    if source_lengths.shape != q.shape[:1]:
        raise ValueError(f"source_lengths must have shape ({q.shape[0]},), got {tuple(source_lengths.shape)}")


def check_radius(radius) -> None:
    """A local window reaches at least to its neighbours."""
    if not (isinstance(radius, int) and radius >= 1):
        raise ValueError(f"radius must be an integer of at least 1, got {radius!r}")
