"""Parameters of Hugging Face's Longformer attention as parameters of `GlobalLocalAttention`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from attncourse._shared.validate import require

# Theirs -> ours. attention_window=2r there is radius=r here.
PROJECTIONS = {
    "query": "w_q",
    "key": "w_k",
    "value": "w_v",
    "query_global": "w_q_global",
    "key_global": "w_k_global",
    "value_global": "w_v_global",
}
AFTERWARDS = ("output.LayerNorm.weight", "output.LayerNorm.bias")


def state_dict_from_longformer(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a GlobalLocalAttention from that of a `LongformerSelfAttention` or a
    `LongformerAttention`.

    The former has no output projection, so w_o is the identity. Of the latter, what follows its output projection (the
    residual path and its normalization) is not part of attention, and is left out.

    Args:
        theirs: tensors by their names.

    Raises:
        ValueError: parameters are missing, or have no place here.
    """
    inner = {name.removeprefix("self."): x for name, x in theirs.items() if name not in AFTERWARDS}
    known = [f"{name}.{part}" for name in PROJECTIONS for part in ("weight", "bias")]
    missing = [name for name in known if name not in inner]
    require(not missing, f"a Longformer's attention has {', '.join(PROJECTIONS)}, got none of {missing}")
    ours = {f"{PROJECTIONS[name.split('.')[0]]}.{name.split('.')[1]}": inner.pop(name) for name in known}
    like = ours["w_q.weight"]
    ours["w_o.weight"] = inner.pop("output.dense.weight", torch.eye(len(like), dtype=like.dtype, device=like.device))
    ours["w_o.bias"] = inner.pop("output.dense.bias", torch.zeros_like(ours["w_q.bias"]))
    require(not inner, f"GlobalLocalAttention has no place for {sorted(inner)}")
    return ours
