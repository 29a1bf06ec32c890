"""What every form of latent attention takes."""

import torch
from torch import Tensor

from attncourse._shared.masks import Masking
from attncourse._shared.precision import wide
from attncourse._shared.validate import check_key_lengths, check_mask, check_tensors, shapes_of

WIDEST = 512  # entries of a latent that a kernel takes


def check_latent(q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, w_uk: Tensor, w_uv: Tensor) -> None:
    """Check that shapes go together: queries of h heads, one stream of latents and one of rotated keys,
    matrices per head.

    Args:
        q_nope, q_rope: (b, h, t, n) and (b, h, t, p).
        latent, k_rope: (b, 1, s, r) and (b, 1, s, p).
        w_uk, w_uv: (h, n, r) and (h, dv, r).

    Raises:
        ValueError: the message names the rule and what was received.
    """
    check_tensors(q_nope=q_nope, q_rope=q_rope, latent=latent, k_rope=k_rope, w_uk=w_uk, w_uv=w_uv)
    for name, x, axes in (
        ("q_nope", q_nope, "b, h, t, n"), ("q_rope", q_rope, "b, h, t, p"), ("latent", latent, "b, 1, s, r"),
        ("k_rope", k_rope, "b, 1, s, p"), ("w_uk", w_uk, "h, n, r"), ("w_uv", w_uv, "h, dv, r"),
    ):  # fmt: skip
        if x.ndim != axes.count(",") + 1:
            raise ValueError(f"{name} must be ({axes}), got shape {tuple(x.shape)}")
    (b, h, t, n), p, (s, r) = q_nope.shape, q_rope.shape[-1], latent.shape[2:]
    for name, x, wanted in (
        ("q_rope", q_rope, (b, h, t, p)), ("latent", latent, (b, 1, s, r)), ("k_rope", k_rope, (b, 1, s, p)),
        ("w_uk", w_uk, (h, n, r)), ("w_uv", w_uv, (h, w_uv.shape[1], r)),
    ):  # fmt: skip
        if x.shape != wanted:
            raise ValueError(
                f"{name} must be {wanted} beside q_nope {tuple(q_nope.shape)} and latent {tuple(latent.shape)}, "
                f"got {tuple(x.shape)}"
            )
    if n + p == 0:
        raise ValueError(f"queries must have a width, {shapes_of(q_nope=q_nope, q_rope=q_rope)}")


def check_masking(q_nope: Tensor, latent: Tensor, *, key_lengths: Tensor | None, mask: Tensor | None) -> Masking:
    """Return key_lengths and mask, checked, as they go to scores, which are float32 or better.

    Args:
        q_nope: (b, h, t, n).
        latent: (b, 1, s, r).
        key_lengths: (b,) integers; None passes.
        mask: boolean or floats, broadcastable to (b, h, t, s); None passes.
    """
    (b, h, t, _), s = q_nope.shape, latent.shape[2]
    check_key_lengths(key_lengths, b=b, s=s, like=latent)
    check_mask(mask, shape=(b, h, t, s), like=latent)
    if mask is not None and mask.is_floating_point():
        mask = wide(mask)
    return {"key_lengths": key_lengths, "mask": mask}


def check_table(block_table: Tensor, *, b: int, like: Tensor) -> None:
    """Check that block_table is (b, max_pages) integers on the device of `like`."""
    if block_table.ndim != 2 or len(block_table) != b or block_table.device != like.device:
        raise ValueError(
            f"block_table must be ({b}, max_pages) on {like.device}, "
            f"got {tuple(block_table.shape)} on {block_table.device}"
        )


def check_absorbed(
    name: str,
    inputs: dict[str, Tensor],
    *,
    key_lengths: Tensor | None,
    positions: Tensor | None,
    block_table: Tensor | None,
    splits: int | None,
) -> None:
    """Check what a kernel that decodes from latents takes:
    the inputs, as contiguous storage or pages, without gradients.

    Args:
        name: of the launcher, for the message.
        inputs: q_nope, q_rope, latent, k_rope, w_uk and w_uv by their names.
        key_lengths, positions, block_table: integers (b,), (b, t) and (b, max_pages); None passes.
        splits: at least 1; None passes.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs.values()):
        raise ValueError(
            f"{name} is for inference and gives no gradients: call it under torch.no_grad(), or use impl='torch'"
        )
    (b, _, t, _), latent, k_rope = inputs["q_nope"].shape, inputs["latent"], inputs["k_rope"]
    s = latent.shape[2]
    if block_table is None:
        check_latent(**inputs)
    else:
        check_table(block_table, b=b, like=latent)
        if key_lengths is None:
            raise ValueError("pages need key_lengths: how many tokens of each sequence they hold")
        check_latent(
            **inputs | {"latent": latent[:1].expand(b, -1, -1, -1), "k_rope": k_rope[:1].expand(b, -1, -1, -1)}
        )
        if latent.shape[:3] != k_rope.shape[:3]:
            raise ValueError(f"both streams need the same pages, got {len(latent)}, {len(k_rope)}")
        s *= block_table.shape[1]
    check_key_lengths(key_lengths, b=b, s=s, like=latent)
    if positions is not None and positions.shape != (b, t):
        raise ValueError(f"positions must be ({b}, {t}), got {tuple(positions.shape)}")
    if latent.shape[-1] > WIDEST:
        raise ValueError(f"{name} takes latents of width to {WIDEST}, got {latent.shape[-1]}")
    if splits is not None and splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
