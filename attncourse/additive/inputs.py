"""The input errors of additive attention, alike for every form of it."""

from attncourse._shared.validate import check_axes, check_key_lengths, check_mask, check_tensors, shapes_of


def check_additive(q, k, w_q, w_k, w_score, v=None, key_lengths=None, mask=None) -> None:
    """Check shapes and kinds of what the score asks for.

    Args:
        q, k, v: (b, h, t, dq), (b, h, s, dk), (b, h, s, dv); v may be None.
        w_q, w_k, w_score: (a, dq), (a, dk), (a,).
        key_lengths: (b,) integers; None passes.
        mask: boolean or floats, broadcastable to (b, h, t, s); None passes.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    tensors = dict(q=q, k=k, w_q=w_q, w_k=w_k, w_score=w_score)
    check_tensors(**tensors) if v is None else check_tensors(**tensors, v=v)
    check_axes(q=q, k=k)
    (b, h, t, dq), (s, dk), a = q.shape, k.shape[2:], w_score.numel()
    if k.shape[:2] != (b, h):
        raise ValueError(f"q and k must share batch and heads, got {tuple(q.shape)}, {tuple(k.shape)}")
    if w_score.ndim != 1 or w_q.shape != (a, dq) or w_k.shape != (a, dk):
        got = shapes_of(w_q=w_q, w_k=w_k, w_score=w_score)
        raise ValueError(f"w_q must be (a, dq), w_k (a, dk), w_score (a,) with dq={dq}, dk={dk}, {got}")
    if v is not None and (v.ndim != 4 or v.shape[:3] != k.shape[:3]):
        raise ValueError(f"v must be (b, h, s, dv) = ({b}, {h}, {s}, dv), got {tuple(v.shape)}")
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    check_mask(mask, shape=(b, h, t, s), like=q)
