"""The input errors of additive attention, alike for every form of it."""

from attncourse._shared.validate import check_key_lengths, check_mask, check_tensors, require


def check_additive(q, k, w_q, w_k, w_score, v=None, key_lengths=None, mask=None) -> None:
    """Shapes and kinds that the score asks for; the message names the rule and what was received."""
    tensors = dict(q=q, k=k, w_q=w_q, w_k=w_k, w_score=w_score)
    check_tensors(**tensors) if v is None else check_tensors(**tensors, v=v)
    for name, x in (("q", q), ("k", k)):
        require(x.ndim == 4, f"{name} must be (batch, heads, length, width), got shape {tuple(x.shape)}")
    require(q.shape[:2] == k.shape[:2], f"q and k must share batch and heads, got {tuple(q.shape)}, {tuple(k.shape)}")
    wanted = (w_score.numel(), q.shape[-1]), (w_score.numel(), k.shape[-1])
    fits = w_score.ndim == 1 and (tuple(w_q.shape), tuple(w_k.shape)) == wanted
    got = f"got w_q {tuple(w_q.shape)}, w_k {tuple(w_k.shape)}, w_score {tuple(w_score.shape)}"
    require(fits, f"w_q must be (a, dq), w_k (a, dk), w_score (a,) with dq={q.shape[-1]}, dk={k.shape[-1]}, {got}")
    (b, h, t, _), s = q.shape, k.shape[2]
    if v is not None:
        require(
            v.ndim == 4 and v.shape[:3] == k.shape[:3],
            f"v must be (b, h, s, dv) = ({b}, {h}, {s}, dv), got {tuple(v.shape)}",
        )
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    check_mask(mask, shape=(b, h, t, s), like=q)
