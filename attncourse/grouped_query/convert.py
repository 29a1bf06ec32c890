"""From many key/value heads to few: each group of heads becomes one, by its mean or by one of its members.

Ainslie et al. 2023, https://arxiv.org/abs/2305.13245, section 2.1: mean-pooling the projections' matrices keeps most of a
trained model; a little further training ("uptraining") then adapts it.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.layer import LayerOfHeads
from attncourse._shared.validate import check_widths, require

from .module import GroupedQueryAttention

SELECTIONS = ("mean", "first", "random")


def group_heads(
    parameter: Float[Tensor, "hd *d"],
    *,
    n_heads: int,
    n_kv_heads: int,
    by: str = "mean",
    rng: torch.Generator | None = None,
) -> Float[Tensor, "gd *d"]:
    """Return a projection's matrix (out, in) or bias (out,) with n_kv_heads heads made of its n_heads.

    Args:
        by: a group's "mean", its "first" head, or "random": new numbers of the same mean and deviation.
        rng: what draws; needed for "random".

    Raises:
        ValueError: heads that do not divide, an unknown selection, or nothing to draw with.
    """
    check_widths(n_heads=n_heads, n_kv_heads=n_kv_heads)
    require(by in SELECTIONS, f"by must be one of {', '.join(SELECTIONS)}, got {by!r}")
    rows = len(parameter)
    require(rows % n_heads == 0, f"the {n_heads} heads must divide the projection's {rows} rows")
    require(n_heads % n_kv_heads == 0, f"the {n_kv_heads} key/value heads must divide the {n_heads} heads")
    groups = parameter.unflatten(0, (n_kv_heads, n_heads // n_kv_heads, -1))
    if by == "mean":
        return groups.mean(dim=1).flatten(0, 1)
    if by == "first":
        return groups[:, 0].flatten(0, 1)
    require(rng is not None, "by='random' draws a new projection: give a torch.Generator as rng")
    drawn = torch.randn(groups[:, 0].shape, generator=rng, dtype=torch.float64).to(parameter)
    return (parameter.mean() + parameter.std(correction=0) * drawn).flatten(0, 1)


def grouped_from_multi_head(
    layer: LayerOfHeads, n_kv_heads: int, *, by: str = "mean", rng: torch.Generator | None = None
) -> GroupedQueryAttention:
    """Return the layer with its key and value heads grouped; queries, output and everything else are copies.

    Args:
        layer: a multi-head or grouped layer: projections w_q, w_k, w_v, w_o, and n_heads, head_dim, causal, rope,
            scale.
        n_kv_heads: heads of keys and values that are left.
        by: a group's "mean", its "first" head, or "random": new numbers of the same mean and deviation.
        rng: what draws; needed for "random".

    Raises:
        ValueError: a layer whose values are wider or narrower than its keys, or that reads another sequence; heads that
            do not divide, an unknown selection, or nothing to draw with.
    """
    d_model, out = layer.w_q.in_features, layer.w_o.in_features
    require(
        layer.w_k.in_features == d_model and out == layer.n_heads * layer.head_dim,
        f"only self-attention with values as wide as keys can be grouped, got d_model={d_model}, a context of width "
        f"{layer.w_k.in_features}, and {layer.n_heads} heads of {layer.head_dim} with {out} wide values in all",
    )
    heads = getattr(layer, "n_kv_heads", layer.n_heads)
    grouped = GroupedQueryAttention(
        d_model, layer.n_heads, n_kv_heads=n_kv_heads, head_dim=layer.head_dim, bias=layer.w_q.bias is not None,
        causal=layer.causal, window=getattr(layer, "window", None), rope=copy.deepcopy(layer.rope), scale=layer.scale,
        softcap=getattr(layer, "softcap", None),
        impl=layer.impl,
    )  # fmt: skip
    if layer.w_o.bias is None:  # Qwen2's layers have biases on queries, keys and values alone
        grouped.w_o.register_parameter("bias", None)
    state = {name: x for name, x in layer.state_dict().items() if name.startswith(("w_q.", "w_k.", "w_v.", "w_o."))}
    for name in state:
        if name.startswith(("w_k.", "w_v.")):
            state[name] = group_heads(state[name], n_heads=heads, n_kv_heads=n_kv_heads, by=by, rng=rng)
    grouped.load_state_dict(state)
    return grouped.to(layer.w_q.weight).train(layer.training)
