"""Attention layers of published checkpoints as this package's modules: from a config's numbers, then a state dict.

Configs and entries have the names of Hugging Face's `config.json` and state dicts. Llama (Touvron et al. 2023,
https://arxiv.org/abs/2302.13971; Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783), Mistral (Jiang et al. 2023,
https://arxiv.org/abs/2310.06825), Qwen2 (Yang et al. 2024, https://arxiv.org/abs/2407.10671) and Gemma 2 (2024,
https://arxiv.org/abs/2408.00118) are grouped-query attention; DeepSeek-V2 (https://arxiv.org/abs/2405.04434) and -V3
(https://arxiv.org/abs/2412.19437) latent attention.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.rope_scaling import (
    linear_frequencies,
    llama3_frequencies,
    published_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)
from attncourse._shared.validate import require
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.latent import LatentAttention

GROUPED = ("llama", "mistral", "qwen2", "gemma2")
LATENT = ("deepseek_v2", "deepseek_v3", "kimi_k2")
# Numbers by which a model adds to this attention what the modules here lack.
SOFTCAP = "attn_logit_softcapping"
BEYOND = (SOFTCAP, "index_topk", "sliding_window_pattern")

# Our name of each linear map or norm, and the checkpoint's.
NAMES = {
    GroupedQueryAttention: {"w_q": "q_proj", "w_k": "k_proj", "w_v": "v_proj", "w_o": "o_proj"},
    LatentAttention: {
        "q": "q_proj",
        "q_a": "q_a_proj",
        "q_a_norm": "q_a_layernorm",
        "q_b": "q_b_proj",
        "kv_a": "kv_a_proj_with_mqa",
        "kv_a_norm": "kv_a_layernorm",
        "kv_b": "kv_b_proj",
        "o": "o_proj",
    },
}

FP8_BLOCK = 128  # rows and columns of a weight that share a factor in DeepSeek-V3's release

Attention = GroupedQueryAttention | LatentAttention
Config = Mapping[str, Any]


def attention_from_config(config: Config, *, layer: int = 0, impl: str | None = None) -> Attention:
    """Return the attention of one layer of the model that a published config describes, with random weights.

    Under `torch.device("meta")` it takes no memory, whatever the model's size.

    Args:
        config: the numbers of a `config.json`; what does not concern attention may be missing. Without a model_type the
            sizes decide: latent attention as DeepSeek's where there is a kv_lora_rank, else grouped-query as Mistral's.
        layer: which one, where layers differ (sliding windows of Qwen2 and Gemma 2).
        impl: as in the module (default: "torch", or "blocked" where scores are bounded, as Gemma 2's are).

    Raises:
        ValueError: a model whose attention is not the module's, a number that is missing, a layer that is not there, or
            a rope scaling that is not known.
    """
    kind = config.get("model_type") or ("deepseek_v3" if "kv_lora_rank" in config else "mistral")
    require(kind in GROUPED + LATENT, f"model_type must be one of {', '.join(GROUPED + LATENT)}, got {kind!r}")
    beyond = [name for name in BEYOND if config.get(name) is not None and (kind, name) != ("gemma2", SOFTCAP)]
    require(not beyond, f"attention that {' and '.join(beyond)} change is not known here")
    n_layers = config.get("num_hidden_layers", layer + 1)
    require(0 <= layer < n_layers, f"layer must be one of 0..{n_layers - 1}, got {layer}")
    return _latent(config, impl or "torch") if kind in LATENT else _grouped_query(config, kind, layer, impl)


def rotary_from_config(config: Config, *, width: int, interleaved: bool = False) -> RotaryEmbedding:
    """Return the rotary embedding of queries and keys of this width, scaled as the config says.

    Raises:
        ValueError: a scaling other than linear, llama3 and yarn, or a number of it that is missing; heads that are
            rotated in part.
    """
    rope = _rope_parameters(config)
    require(
        rope["partial_rotary_factor"] == 1.0,
        "heads that are rotated in part (partial_rotary_factor) are not known",
    )
    kind, frequencies, magnitude = rope["rope_type"], published_frequencies, 1.0
    if kind == "linear":
        frequencies = partial(linear_frequencies, **_numbers(rope, "factor"))
    elif kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        frequencies = partial(llama3_frequencies, **_numbers(rope, *names))
    elif kind == "yarn":
        given = {name: rope[name] for name in ("beta_fast", "beta_slow", "truncate") if rope.get(name) is not None}
        numbers = _numbers(rope, "factor", "original_max_position_embeddings")
        frequencies, magnitude = partial(yarn_frequencies, **numbers, **given), _yarn_attention_factor(rope)
    else:
        require(kind == "default", f"rope_type must be default, linear, llama3 or yarn, got {kind!r}")
    return RotaryEmbedding(
        width, base=rope["rope_theta"], interleaved=interleaved, frequencies=frequencies, magnitude=magnitude
    )


def load_attention(layer: Attention, state_dict: Mapping[str, Tensor], *, prefix: str = "") -> Attention:
    """Fill the layer with copies of a checkpoint's entries, in the checkpoint's dtype, and return it.

    A layer on the meta device comes to where the entries are; any other stays where it is. DeepSeek-V3's float8 weights
    are multiplied out to bfloat16.

    Args:
        state_dict: of this attention alone, or of a whole model.
        prefix: what stands before the attention's own names: "model.layers.3.self_attn.".

    Raises:
        ValueError: entries that are missing, unexpected, of another shape, or of different dtypes; then nothing is
            loaded.
    """
    prefix = prefix if prefix.endswith(".") or not prefix else prefix + "."
    # Checkpoints of Llama's first years hold its frequencies too, which the config gives.
    theirs = {
        name.removeprefix(prefix): entry
        for name, entry in state_dict.items()
        if name.startswith(prefix) and not name.endswith("rotary_emb.inv_freq")
    }
    theirs = _multiplied_out(theirs)
    ours = _published_names(layer)
    parameters = dict(layer.named_parameters())
    shapes = {published: tuple(parameters[own].shape) for own, published in ours.items()}
    _check_entries(theirs, shapes, prefix)
    filled = {}
    for own, published in ours.items():
        entry, place = theirs[published].detach(), parameters[own].device
        filled[own] = entry.to(entry.device if place.type == "meta" else place, copy=True)
    layer.load_state_dict(filled, assign=True)
    return layer


def attention_to_hugging_face(layer: Attention, *, prefix: str = "") -> dict[str, Tensor]:
    """Return the inverse of `load_attention`: the layer's parameters under their published names, not copied."""
    parameters = dict(layer.named_parameters())
    return {prefix + published: parameters[own].detach() for own, published in _published_names(layer).items()}


def _grouped_query(config: Config, kind: str, layer: int, impl: str | None) -> GroupedQueryAttention:
    d_model, n_heads = _numbers(config, "hidden_size", "num_attention_heads").values()
    head_dim = config.get("head_dim") or d_model // n_heads
    is_qwen2, softcap, scale = kind == "qwen2", None, None
    if kind == "gemma2":
        (scale,) = (n**-0.5 for n in _numbers(config, "query_pre_attn_scalar").values())
        require(SOFTCAP in config, f"the config must say {SOFTCAP}, or that it is null: it has {', '.join(config)}")
        softcap = config[SOFTCAP]
    attention = GroupedQueryAttention(
        d_model,
        n_heads,
        n_kv_heads=config.get("num_key_value_heads") or n_heads,
        head_dim=head_dim,
        bias=is_qwen2 or bool(config.get("attention_bias", False)),
        window=_window(config, kind, layer),
        rope=rotary_from_config(config, width=head_dim),
        scale=scale,
        softcap=softcap,
        impl=impl or ("torch" if softcap is None else "blocked"),
    )
    if is_qwen2:
        attention.w_o.bias = None  # Qwen2 has biases on queries, keys and values alone
    return attention


def _latent(config: Config, impl: str) -> LatentAttention:
    d_model, n_heads = _numbers(config, "hidden_size", "num_attention_heads").values()
    widths = _numbers(config, "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    require(not config.get("attention_bias"), "latent attention with biases (attention_bias) is not known")
    interleaved = bool(config.get("rope_interleave", True))
    rope = rotary_from_config(config, width=widths["qk_rope_head_dim"], interleaved=interleaved)
    scaling, scale = _rope_parameters(config), (widths["qk_nope_head_dim"] + widths["qk_rope_head_dim"]) ** -0.5
    if scaling["rope_type"] == "yarn" and scaling.get("mscale_all_dim"):
        scale *= yarn_magnitude(scaling["factor"], scaling["mscale_all_dim"]) ** 2
    return LatentAttention(
        d_model, n_heads, **widths, q_lora_rank=config.get("q_lora_rank"), rope=rope, scale=scale, impl=impl
    )


def _rope_parameters(config: Config) -> dict:
    """Return `rope_parameters`, or what older configs spread over `rope_theta` and `rope_scaling`;
    all but the length as floats.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    longest = config.get("max_position_embeddings")
    if longest is not None:
        original = rope.setdefault("original_max_position_embeddings", longest)
        if rope["rope_type"] == "yarn" and rope.get("factor") is None:
            rope["factor"] = longest / original
    whole = "original_max_position_embeddings"
    return {name: float(n) if type(n) is int and name != whole else n for name, n in rope.items()}


def _yarn_attention_factor(rope: dict) -> float:
    """Return the factor on cos and sin: yarn's own magnitude,
    less the part that goes into the softmax scale (`mscale_all_dim`).
    """
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return yarn_magnitude(rope["factor"], rope["mscale"]) / yarn_magnitude(rope["factor"], rope["mscale_all_dim"])
    return yarn_magnitude(rope["factor"])


def _window(config: Config, kind: str, layer: int) -> int | None:
    """Return how many keys a query of this layer sees, its own included; None where it sees all."""
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if kind == "llama":
        return None
    if kinds is not None:
        return window if kinds[layer] == "sliding_attention" else None
    if kind == "gemma2" and layer % 2 == 1:  # Gemma 2's layers take turns, from a window on
        return None
    if kind == "qwen2" and not (config.get("use_sliding_window") and layer >= config.get("max_window_layers", 28)):
        return None
    return window


def _numbers(config: Config, *names: str) -> dict:
    """Return these entries of a config, none of them missing."""
    missing = [name for name in names if config.get(name) is None]
    require(not missing, f"the config must say {', '.join(missing)}: it has {', '.join(map(str, config))}")
    return {name: config[name] for name in names}


def _published_names(layer: Attention) -> dict[str, str]:
    """Return the published name of each of the layer's parameters: {"w_q.weight": "q_proj.weight", ...}."""
    require(type(layer) in NAMES, f"layer must be GroupedQueryAttention or LatentAttention, got {type(layer).__name__}")
    names = NAMES[type(layer)]
    own = (name.rpartition(".") for name, _ in layer.named_parameters())
    return {f"{part}.{what}": f"{names[part]}.{what}" for part, _, what in own}


def _multiplied_out(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float8 weights times their blocks' factors (DeepSeek-V3, section 3.3.2), as bfloat16; the rest as it is."""
    out = dict(entries)
    for name, factors in entries.items():
        weight = entries.get(name.removesuffix("_scale_inv"))
        if weight is None or not name.endswith("_scale_inv") or weight.dtype != torch.float8_e4m3fn:
            continue
        rows, columns = weight.shape
        blocks = (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
        require(
            tuple(factors.shape) == blocks,
            f"a float8 weight {(rows, columns)} needs factors {blocks}, got {name} {tuple(factors.shape)}",
        )
        spread = factors.repeat_interleave(FP8_BLOCK, 0)[:rows].repeat_interleave(FP8_BLOCK, 1)[:, :columns]
        out[name.removesuffix("_scale_inv")] = (weight.float() * spread).bfloat16()
        del out[name]
    return out


def _check_entries(theirs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], prefix: str) -> None:
    """Check that every entry is there, of its shape, and no other is, and that all have one floating dtype."""
    wrong = {
        "missing": [name for name in shapes if name not in theirs],
        "unexpected": [name for name in theirs if name not in shapes],
        "misshapen": [
            f"{name} {tuple(theirs[name].shape)} for {shape}"
            for name, shape in shapes.items()
            if name in theirs and tuple(theirs[name].shape) != shape
        ],
    }
    found = "; ".join(f"{what} {_listed(names)}" for what, names in wrong.items() if names)
    under = f" under {prefix!r}" if prefix else ""
    require(not found, f"the state dict{under} does not fit the layer: {found}")
    dtypes = {str(entry.dtype) for entry in theirs.values()}
    floating = all(entry.is_floating_point() for entry in theirs.values())
    require(
        floating and len(dtypes) == 1, f"the entries must share one floating dtype, got {', '.join(sorted(dtypes))}"
    )


def _listed(names: list[str], most: int = 10) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
