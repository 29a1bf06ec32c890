"""What every form of block-sparse attention asks of its inputs."""

from torch import Tensor

from attncourse._shared.validate import check_key_lengths, check_qkv

from .pattern import BlockPattern


def check_pattern(pattern: BlockPattern, q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None) -> None:
    """Check that q, k, v and key_lengths fit each other, and that the pattern covers their positions on their device."""
    check_qkv(q, k, v)
    b, s = q.shape[0], k.shape[2]
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    if not isinstance(pattern, BlockPattern):
        raise ValueError(f"pattern must be a BlockPattern, got {type(pattern).__name__}")
    if s > pattern.n:
        raise ValueError(f"the pattern has {pattern.n} positions, got {s} keys: make a longer pattern")
    if pattern.device != q.device and not q.is_meta:
        raise ValueError(f"the pattern must be on {q.device}, got {pattern.device}: use pattern.to(device)")
