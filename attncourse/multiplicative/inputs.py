"""The input errors of multiplicative attention, alike for every form of it."""

from attncourse._shared.validate import check_axes, check_key_lengths, check_mask, check_tensors, shapes_of


def check_pair(q, k) -> None:
    """Check that q (b, h, t, dq) and k (b, h, s, dk) share batch, heads, dtype and device."""
    check_tensors(q=q, k=k)
    check_axes(q=q, k=k)
    if q.shape[:2] != k.shape[:2]:
        raise ValueError(f"q and k must share batch and heads, got {tuple(q.shape)}, {tuple(k.shape)}")


def check_weight(q, k, weight) -> None:
    """Check that weight is (dq, dk); without one the widths of q and k must agree."""
    if weight is None:
        if q.shape[-1] != k.shape[-1]:
            raise ValueError(f"a dot product needs equal widths, got dq={q.shape[-1]}, dk={k.shape[-1]}")
        return
    check_tensors(q=q, weight=weight)
    wanted = (q.shape[-1], k.shape[-1])
    if weight.shape != wanted:
        raise ValueError(f"weight must be (dq, dk) = {wanted}, got {tuple(weight.shape)}")


def check_concat(q, k, weight, w_score) -> None:
    """Check that weight is (a, dq + dk) and w_score (a,), of what q and k are."""
    check_tensors(q=q, weight=weight, w_score=w_score)
    wanted = (w_score.numel(), q.shape[-1] + k.shape[-1])
    if w_score.ndim != 1 or weight.shape != wanted:
        got = shapes_of(weight=weight, w_score=w_score)
        raise ValueError(f"weight must be (a, dq + dk) = {wanted} and w_score (a,), {got}")


def check_reading(q, k, v, key_lengths, mask) -> None:
    """Check that v, key_lengths and mask fit q and k."""
    check_pair(q, k)
    check_tensors(q=q, v=v)
    (b, h, t, _), s = q.shape, k.shape[2]
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v must be (b, h, s, dv) = ({b}, {h}, {s}, dv), got {tuple(v.shape)}")
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    check_mask(mask, shape=(b, h, t, s), like=q)


def check_positions(positions, gaussian, *, scores_shape) -> None:
    """Check that positions is (b, h, t), and that gaussian, if there is one, has the scores_shape."""
    check_tensors(positions=positions)
    wanted = tuple(scores_shape)
    if positions.shape != wanted[:3]:
        raise ValueError(f"positions must be (b, h, t) = {wanted[:3]}, got {tuple(positions.shape)}")
    if gaussian is not None and gaussian.shape != wanted:
        raise ValueError(f"gaussian must be (b, h, t, s) = {wanted}, got {tuple(gaussian.shape)}")


def check_predictor(q, w_position, v_position, source_lengths) -> None:
    """Check that w_position is (a, dq) for q, v_position (a,), and that every batch row has one of the source_lengths."""
    check_tensors(q=q, w_position=w_position, v_position=v_position)
    check_axes(q=q)
    if v_position.ndim != 1 or w_position.shape != (v_position.numel(), q.shape[-1]):
        got = shapes_of(w_position=w_position, v_position=v_position)
        raise ValueError(f"w_position must be (a, dq) with dq={q.shape[-1]} and v_position (a,), {got}")
    if source_lengths.shape != q.shape[:1]:
        raise ValueError(f"source_lengths must have shape ({q.shape[0]},), got {tuple(source_lengths.shape)}")


def check_radius(radius) -> None:
    """Check that the radius of a window is at least 1, so that it reaches its neighbours."""
    if not (isinstance(radius, int) and radius >= 1):
        raise ValueError(f"radius must be an integer of at least 1, got {radius!r}")
