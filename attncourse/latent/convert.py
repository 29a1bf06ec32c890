"""From a trained multi-head or grouped layer to a latent one: its keys and values by a joint singular value decomposition.

The keys and values of all heads are one linear map of the token. Its best map of a lower rank is the one that the largest
singular values keep (Eckart and Young 1936): the latent is the token's image under the first factor, kv_a, and the second
factor, kv_b, brings it back. Ji et al. 2025, MHA2MLA, https://arxiv.org/abs/2502.14837, section 3.2, with the joint
decomposition that they find better than one for keys and one for values. They convert models with rotary positions, and
keep some planes of every head's key apart from the latent. Here the layer must have none: a rotation between the two
factors stands in the way of every low rank, so models to convert learn absolute positions.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.layer import LayerOfHeads
from attncourse._shared.validate import check_widths, require

from .module import LatentAttention


def low_rank(
    weight: Float[Tensor, "m d"], rank: int, *, inputs: Float[Tensor, "n d"] | None = None
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r d"]]:
    """Return two factors whose product is the matrix of this rank that is closest to weight.

    Args:
        rank: columns of the first factor, at most min(m, d). The columns are orthonormal.
        inputs: what the matrix is applied to; then closest is meant over these inputs, in place of all alike.

    Raises:
        ValueError: a rank below 1 or too large.
    """
    check_widths(rank=rank)
    full = min(*weight.shape, *(() if inputs is None else (len(inputs),)))
    require(
        rank <= full,
        f"of {tuple(weight.shape)}, over {'all' if inputs is None else len(inputs)} inputs, rank is {full} at most, "
        f"got rank={rank}",
    )
    images = weight.double()
    if inputs is not None:
        # |W X'| = |W L| for any L with L L' = X' X: a triangular one, from the inputs' own decomposition
        images = images @ torch.linalg.qr(inputs.double(), mode="r").R.T
    left = torch.linalg.svd(images, full_matrices=False).U[:, :rank]
    return left.to(weight.dtype), (left.T @ weight.double()).to(weight.dtype)


def latent_from_grouped(
    layer: LayerOfHeads, kv_lora_rank: int, *, inputs: Float[Tensor, "n d"] | None = None
) -> LatentAttention:
    """Return the latent layer, of this rank and without a rotary part, that is closest to a multi-head or grouped one.

    At full rank, min(d_model, 2 n_kv_heads head_dim), it computes the same.

    Args:
        layer: causal, without bias or rotary embedding: projections w_q, w_k, w_v, w_o, and n_heads.
        kv_lora_rank: width of the latent.
        inputs: tokens (n, d) as the layer sees them; the keys and values of these are kept best.

    Raises:
        ValueError: a layer with a bias, a rope, a window or a context of its own, or that is not causal; a rank below 1
            or too large.
    """
    require(layer.rope is None, "a layer with a rope cannot be converted: its keys are turned between the two factors")
    require(layer.w_q.bias is None, "a layer with biases cannot be converted: a latent layer has no place for them")
    require(
        getattr(layer, "window", None) is None, "a layer with a window cannot be converted: a latent layer has none"
    )
    require(layer.causal, "a latent layer is causal, and the layer to convert is not: build it with causal=True")
    d_model, heads = layer.w_q.in_features, layer.n_heads
    require(
        layer.w_k.in_features == d_model,
        f"a latent layer reads one sequence, got d_model={d_model} and a context of width {layer.w_k.in_features}",
    )
    groups = getattr(layer, "n_kv_heads", heads)
    keys, values = (w.weight.detach() for w in (layer.w_k, layer.w_v))
    up, down = low_rank(torch.cat([keys, values]), kv_lora_rank, inputs=inputs)
    head_dim, v_head_dim = len(keys) // groups, len(values) // groups
    latent = LatentAttention(
        d_model, heads, kv_lora_rank=kv_lora_rank, qk_nope_head_dim=head_dim, qk_rope_head_dim=0, v_head_dim=v_head_dim,
        scale=layer.scale, norm=False,
    )  # fmt: skip
    up_keys, up_values = (
        x.unflatten(0, (groups, -1)).repeat_interleave(heads // groups, dim=0)
        for x in up.split([len(keys), len(values)])
    )  # query heads that shared a key/value head share its matrices
    state = {
        "q.weight": layer.w_q.weight, "kv_a.weight": down, "kv_b.weight": torch.cat([up_keys, up_values], dim=1).flatten(0, 1),
        "o.weight": layer.w_o.weight,
    }  # fmt: skip
    latent.to(layer.w_q.weight).load_state_dict({name: x.detach() for name, x in state.items()})
    return latent.train(layer.training)
