"""Parameters of `torch.nn.MultiheadAttention` as parameters of `MultiHeadAttention`, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from attncourse._shared.validate import require

PROJECTIONS = ("q", "k", "v")


def state_dict_from_torch(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a MultiHeadAttention that computes what a `torch.nn.MultiheadAttention` of this one
    does.

    PyTorch stacks the three input projections when they read one width, and keeps them apart otherwise (kdim, vdim).

    Args:
        theirs: tensors by their names.

    Raises:
        ValueError: extra keys and values (add_bias_kv), or keys and values that are read from different widths, for
            which the layer here has no place.
    """
    require("bias_k" not in theirs, "add_bias_kv=True appends a learned key and value, which MultiHeadAttention lacks")
    if "in_proj_weight" in theirs:
        weights = list(theirs["in_proj_weight"].chunk(3))
    else:
        weights = [theirs[f"{name}_proj_weight"] for name in PROJECTIONS]
    kdim, vdim = weights[1].shape[1], weights[2].shape[1]
    require(kdim == vdim, f"keys and values must be read from one context, got kdim={kdim}, vdim={vdim}")
    ours = {f"w_{name}.weight": weight for name, weight in zip(PROJECTIONS, weights, strict=True)}
    ours["w_o.weight"] = theirs["out_proj.weight"]
    if "in_proj_bias" in theirs:
        biases = theirs["in_proj_bias"].chunk(3)
        ours |= {f"w_{name}.bias": bias for name, bias in zip(PROJECTIONS, biases, strict=True)}
        ours["w_o.bias"] = theirs["out_proj.bias"]
    return ours


def state_dict_to_torch(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a `torch.nn.MultiheadAttention`: the inverse of `state_dict_from_torch`.

    Args:
        ours: tensors by their names.

    Raises:
        ValueError: heads that are together wider or narrower than the model, which PyTorch's layer cannot hold.
    """
    weights = [ours[f"w_{name}.weight"] for name in PROJECTIONS]
    d_model = weights[0].shape[1]
    widths = [weight.shape[0] for weight in weights]
    require(
        widths == [d_model] * 3,
        f"torch.nn.MultiheadAttention needs heads that fill the model's width {d_model}, "
        f"got queries, keys and values of {', '.join(map(str, widths))} in all",
    )
    if weights[1].shape[1] == d_model:
        theirs = {"in_proj_weight": torch.cat(weights)}
    else:
        theirs = {f"{name}_proj_weight": weight for name, weight in zip(PROJECTIONS, weights, strict=True)}
    theirs["out_proj.weight"] = ours["w_o.weight"]
    if "w_q.bias" in ours:
        theirs["in_proj_bias"] = torch.cat([ours[f"w_{name}.bias"] for name in PROJECTIONS])
        theirs["out_proj.bias"] = ours["w_o.bias"]
    return theirs
