"""What the layers of a published config store of a token, and how far each of them sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attncourse._shared.validate import check_widths, require

# Configs that leave the pattern to the model's code: every so many layers, one sees everything.
FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}

# Where a config says one of these, some layers keep something else than keys of tokens, or share another layer's.
NOT_COUNTED = (
    "linear_attn_config",
    "full_attention_interval",
    "layers_block_type",
    "hybrid_override_pattern",
    "attn_layer_period",
    "compress_ratios",
    "num_kv_shared_layers",
)


@dataclass(frozen=True)
class Stream:
    """One vector that each stored head keeps of a token.

    Args:
        width: its entries.
        flops: operations with it, when a step reads it: all query heads together.
        most: of how many tokens a step reads it; of all that are seen unless told.
    """

    width: int
    flops: int
    most: int | None = None


@dataclass(frozen=True)
class Design:
    """What every layer of a model stores of a token.

    Args:
        name: "MHA", "GQA", "MQA" or "MLA".
        n_heads, n_kv_heads: query heads, and heads that are stored.
    """

    name: str
    n_heads: int
    n_kv_heads: int
    streams: tuple[Stream, ...]


def read_config(config: Mapping[str, Any]) -> tuple[Design, list[int | None]]:
    """What each layer stores, and each layer's window (None where it sees everything).

    Raises:
        ValueError: a size that is missing, not positive or does not fit the others; layers that keep no keys of tokens.
    """
    sizes = _sizes(config)
    other = [name for name in NOT_COUNTED if sizes.get(name)]
    require(not other, f"every layer must keep keys of its own, and {', '.join(other)} says that some do not")
    return _design(sizes), _windows(sizes)


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text model, without what is null, GPT-2's and Falcon's names replaced by the usual ones."""
    config = {**config, **(config.get("text_config") or {})}
    config = {name: value for name, value in config.items() if value is not None}
    usual = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_size": "n_embd",
        "num_key_value_heads": "num_kv_heads",
    }
    sizes = {name: config[other] for name, other in usual.items() if other in config} | config
    # Falcon's first form says so, and names as many heads of keys as of queries.
    if sizes.get("multi_query") and not sizes.get("new_decoder_architecture"):
        sizes["num_key_value_heads"] = 1
    return sizes


def _size(config: dict[str, Any], name: str) -> int:
    require(name in config, f"the config must say {name}; it says {', '.join(config) or 'nothing'}")
    check_widths(**{name: config[name]})
    return config[name]


def _design(config: dict[str, Any]) -> Design:
    n_heads = _size(config, "num_attention_heads")
    if "kv_lora_rank" in config:
        return Design("MLA", n_heads, 1, _latent_streams(config, n_heads))
    n_kv_heads = _size(config, "num_key_value_heads") if "num_key_value_heads" in config else n_heads
    require(n_heads % n_kv_heads == 0, f"the {n_kv_heads} key/value heads must divide the {n_heads} query heads")
    dk = _head_dim(config, n_heads)
    dv = _size(config, "v_head_dim") if "v_head_dim" in config else dk
    name = "MHA" if n_kv_heads == n_heads else "MQA" if n_kv_heads == 1 else "GQA"
    return Design(name, n_heads, n_kv_heads, (Stream(dk, 2 * n_heads * dk), Stream(dv, 2 * n_heads * dv)))


def _latent_streams(config: dict[str, Any], n_heads: int) -> tuple[Stream, ...]:
    """The latent, which absorbed attention multiplies into the score and into the mixture, and the shared rotated key.

    DeepSeek-V3.2 keeps a second, small key, with which an indexer chooses the tokens whose latents are read.
    """
    latent, rope = _size(config, "kv_lora_rank"), _size(config, "qk_rope_head_dim")
    sparse = "index_topk" in config
    most = _size(config, "index_topk") if sparse else None
    streams = Stream(latent, 4 * n_heads * latent, most), Stream(rope, 2 * n_heads * rope, most)
    if not sparse:
        return streams
    index = _size(config, "index_head_dim")
    return *streams, Stream(index, 2 * _size(config, "index_n_heads") * index)


def _head_dim(config: dict[str, Any], n_heads: int) -> int:
    if "head_dim" in config:
        return _size(config, "head_dim")
    hidden = _size(config, "hidden_size")
    require(
        hidden % n_heads == 0, f"without head_dim, the {n_heads} heads must divide the hidden_size {hidden} into widths"
    )
    return hidden // n_heads


def _windows(config: dict[str, Any]) -> list[int | None]:
    """The window of each layer, None where it sees everything."""
    n_layers = _size(config, "num_hidden_layers")
    window = _size(config, "sliding_window") if "sliding_window" in config else None
    kinds = config.get("layer_types") or _layer_types(config, n_layers)
    require(len(kinds) == n_layers, f"layer_types must name the {n_layers} layers' kinds, got {len(kinds)} of them")
    known = {"full_attention": None, "indexed_attention": None, "sliding_attention": window}
    unknown = sorted(set(kinds) - known.keys())
    require(not unknown, f"layers must be {', '.join(known)}, got {', '.join(unknown)}")
    require(window is not None or "sliding_attention" not in kinds, "sliding layers need a sliding_window, got none")
    return [known[kind] for kind in kinds]


def _layer_types(config: dict[str, Any], n_layers: int) -> list[str]:
    """Which layers slide, where the config does not list them."""
    full, sliding = "full_attention", "sliding_attention"
    if "sliding_window" not in config or config.get("use_sliding_window") is False:
        return [full] * n_layers
    if config.get("use_sliding_window"):  # Qwen2: the first layers see everything
        return [full if i < _size(config, "max_window_layers") else sliding for i in range(n_layers)]
    every = config.get("sliding_window_pattern") or FULL_EVERY.get(config.get("model_type"))
    return [sliding if every is None or (i + 1) % every else full for i in range(n_layers)]
