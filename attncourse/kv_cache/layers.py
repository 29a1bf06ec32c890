"""What each layer of a published config stores of a token, and how far it sees."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attncourse._shared.validate import check_widths, require

from .class_defaults import is_known, table, with_class_defaults
from .fields import check_fields, check_kinds_of_values
from .patterns import (
    CHUNKED,
    CONV,
    FULL,
    HYBRID,
    HYBRID_SLIDING,
    INDEXED,
    LINEAR,
    NOTHING,
    SLIDING,
    kind_by_size,
    layer_kinds,
)

MOST_LAYERS = 10_000  # each is described by itself

# Classes that declare is_decoder and write whatever it says.
CAUSAL_ANYWAY = ("gpt_neox", "gpt_neox_japanese", "trocr")


@dataclass(frozen=True)
class Stream:
    """A stream is one vector that each stored head keeps of a token.

    Args:
        width: its entries.
        flops: operations with it, when a step reads it: all query heads together.
        most: of how many tokens a step reads it (default: all that are seen).
    """

    width: int
    flops: int
    most: int | None = None


@dataclass(frozen=True)
class Layer:
    """A layer says what it stores of a token.

    Args:
        name: "MHA", "GQA", "MQA" or "MLA"; "state" where a layer keeps no keys of tokens but a state of fixed size;
            "none" where it has no attention.
        kind: "full", "window" or "chunk"; "shared" where it reads what an earlier layer stores, "none" where it reads
            nothing.
        n_heads, n_kv_heads: query heads, and heads that are stored.
        window: tokens that it sees, in a window or a chunk; None for all.
        has_state: whether it keeps a state of fixed size, instead or beside.
    """

    name: str
    kind: str
    n_heads: int
    n_kv_heads: int
    streams: tuple[Stream, ...]
    window: int | None = None
    has_state: bool = False


def read_config(config: Mapping[str, Any]) -> list[Layer]:
    """Return what each layer of a config stores.

    Raises:
        ValueError: a size that is missing, not positive or does not fit the others; a field about layers, heads,
            windows, sharing or compression that is not understood; a model that keeps no keys of tokens.
    """
    sizes = with_class_defaults(config)
    check_kinds_of_values(sizes)
    sizes = _renamed(sizes)
    n_layers = _n_layers(sizes)
    kinds, told = layer_kinds(sizes, n_layers)
    check_fields(sizes, kinds_told=told)
    _check_is_decoder(sizes)
    shared = _shared_layers(sizes, n_layers)
    each = _sizes_by_layer(sizes, kinds)
    if not told:
        kinds = [kind_by_size(own) for own in each]
    layers = [_layer(own, kind, i, shared=i in shared) for i, (own, kind) in enumerate(zip(each, kinds, strict=True))]
    require(
        any(layer.streams for layer in layers),
        "some layer must keep keys of tokens: here each keeps a state of fixed size, so there is no key-value cache",
    )
    return layers


def _renamed(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes with what some families say in words of their own said in the usual ones."""
    sizes = sizes | _attention_config(sizes)
    if sizes.get("multi_query") and not sizes.get("new_decoder_architecture"):
        sizes["num_key_value_heads"] = 1  # Falcon's first form and StarCoder's say so, and name as many as query heads
    elif sizes.get("multi_query") is False and sizes.get("model_type") == "gpt_bigcode":
        sizes.pop("num_key_value_heads", None)
    if "local_attention" in sizes:  # ModernBERT's, to both sides
        sizes["sliding_window"] = sizes["local_attention"] // 2
    if "sliding_window_size" in sizes:  # MiMo's leaves the query's own key out
        sizes["sliding_window"] = sizes["sliding_window_size"] + (sizes.get("model_type") == "mimo_v2_flash")
    if sizes.get("use_sliding_window") is False or sizes.get("sliding_window") == 0:
        sizes.pop("sliding_window", None)
    if sizes.get("model_type") in ("zamba", "zamba2"):
        sizes.setdefault("head_dim", 2 * _size(sizes, "hidden_size") // _size(sizes, "num_attention_heads"))
    return sizes


def _attention_config(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return MPT's and DBRX's own dict of attention."""
    inner = sizes.get("attn_config") or {}
    kind = inner.get("attn_type", "multihead_attention")
    require(kind == "multihead_attention", f"attn_config's attn_type must be multihead_attention, got {kind!r}")
    return {"num_key_value_heads": inner["kv_n_heads"]} if inner.get("kv_n_heads") else {}


def _check_is_decoder(sizes: dict[str, Any]) -> None:
    """Check that the model writes: those of BERT's kind keep a cache only where they do,
    and those of BART's keep another one besides.
    """
    require(not sizes.get("is_encoder_decoder"), "the model must be a decoder alone, and is_encoder_decoder is true")
    declared = table().get(sizes.get("model_type", ""), {}).get("defaults", {})
    no_decoder = any(name in declared and not sizes[name] for name in ("is_decoder", "causal"))
    require(
        not no_decoder or sizes["model_type"] in CAUSAL_ANYWAY,
        "the model must write, and here is_decoder (or causal) is false: it keeps no cache",
    )
    both_sides = sizes.get("use_bidirectional_attention")
    require(
        both_sides not in (True, "all"), f"the model must be causal, and use_bidirectional_attention is {both_sides!r}"
    )


def _n_layers(sizes: dict[str, Any]) -> int:
    for name in ("hybrid_override_pattern", "layers_block_type", "layer_types"):
        if sizes.get("model_type") == "nemotron_h" and sizes.get(name):
            return len(sizes[name])  # its class counts the list, whatever the number says
    if sizes.get("model_type") == "longcat_flash" and "num_hidden_layers" not in sizes:
        return 2 * _size(sizes, "num_layers")  # of two attentions each
    n_layers = _size(sizes, "num_hidden_layers")
    require(n_layers <= MOST_LAYERS, f"num_hidden_layers must be at most {MOST_LAYERS:,}, got {n_layers:,}")
    if sizes.get("model_type") == "hrm_text" and "num_layers_per_stack" not in sizes:
        return n_layers * sizes["H_cycles"] * (sizes["L_cycles"] + 1)  # each pass through a stack keeps keys of its own
    return n_layers


def _size(sizes: Mapping[str, Any], name: str) -> int:
    require(name in sizes, f"the config must say {name}; it says {', '.join(sizes) or 'nothing'}")
    check_widths(**{name: sizes[name]})
    return sizes[name]


def _shared_layers(sizes: dict[str, Any], n_layers: int) -> Iterable[int]:
    """Return the layers that read what an earlier one stores:
    the last ones (Gemma), or all but each first of a few (Hunyuan).
    """
    last = sizes.get("num_kv_shared_layers") or 0
    require(0 <= last < n_layers, f"num_kv_shared_layers must leave some of the {n_layers} layers, got {last}")
    if not sizes.get("use_cla"):
        return range(n_layers - last, n_layers)
    factor = _size(sizes, "cla_share_factor")
    return [i for i in range(n_layers) if i % factor]


def _sizes_by_layer(sizes: dict[str, Any], kinds: list[str]) -> list[dict[str, Any]]:
    """Return the sizes of each layer, where a config has other ones for some."""
    each = [sizes | _of_kind(sizes, kind) for kind in kinds]
    for i, own in enumerate(each):
        for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
            listed = sizes.get("num_attention_heads_per_layer") if name == "num_attention_heads" else None
            listed = listed or (own[name] if isinstance(own.get(name), list) else None)
            if listed:
                require(
                    len(listed) == len(kinds), f"{name} must be given for the {len(kinds)} layers, got {len(listed)}"
                )
                own[name] = listed[i]
        own.update(_block(sizes, i, own))
    others = sizes.get("per_layer_config", {})
    known = {str(i) for i in range(len(kinds))} | {f"{i:02d}" for i in range(len(kinds))}
    wrong = [number for number in others if str(number) not in known]
    require(not wrong, f"per_layer_config must name layers 0..{len(kinds) - 1}, got {wrong}")
    for number, other in others.items():
        require(isinstance(other, Mapping), f"per_layer_config must hold a dict a layer, got {other!r}")
        check_fields(other, kinds_told=True)
        each[int(number)].update(other)
    return each


def _of_kind(sizes: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the sizes that a config gives for its sliding layers, or for those that see everything (Gemma 4)."""
    if "per_layer_config" in sizes:
        return {}
    if kind in (SLIDING, HYBRID_SLIDING):
        names = (
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "v_head_dim",
            "kv_lora_rank",
            "qk_rope_head_dim",
        )
        own = {name: sizes[f"swa_{name}"] for name in names if f"swa_{name}" in sizes}
        if sizes.get("model_type") == "mimo_v2_flash":
            own.setdefault("num_key_value_heads", 2 * _size(sizes, "num_key_value_heads"))
        return own
    if kind == FULL:
        wide = {"head_dim": sizes["global_head_dim"]} if "global_head_dim" in sizes else {}
        few = "num_global_key_value_heads" in sizes and sizes.get("attention_k_eq_v", True)
        return wide | ({"num_key_value_heads": sizes["num_global_key_value_heads"]} if few else {})
    return {}


def _block(sizes: dict[str, Any], i: int, own: dict[str, Any]) -> dict[str, Any]:
    """Return what Nemotron's search for an architecture left of this layer's attention."""
    if not sizes.get("block_configs"):
        return {}
    blocks = sizes["block_configs"]
    good = i < len(blocks) and isinstance(blocks[i], Mapping)
    require(good, f"block_configs must hold a dict a layer, got {len(blocks)} of them")
    attention = {name: value for name, value in blocks[i].get("attention", {}).items() if value}
    known = {"n_heads_in_group", "num_key_value_heads", "no_op", "replace_with_linear", "window_length"}
    unknown = sorted(attention.keys() - known)
    require(
        not unknown, f"block_configs' attention must be told by {', '.join(sorted(known))}, got {', '.join(unknown)}"
    )
    if attention.get("no_op") or attention.get("replace_with_linear"):
        return {"no_attention": True}
    if "window_length" in attention:
        own = own | {"window": attention["window_length"]}
    if "n_heads_in_group" in attention:
        return own | {"num_key_value_heads": _size(own, "num_attention_heads") // attention["n_heads_in_group"]}
    return own | {"num_key_value_heads": _size(attention, "num_key_value_heads")}


def _layer(sizes: dict[str, Any], kind: str, i: int, *, shared: bool) -> Layer:
    if kind in NOTHING or sizes.get("no_attention"):
        return Layer("none", "none", 0, 0, ())
    if kind in (LINEAR, CONV):
        return Layer("state", "none", 0, 0, (), has_state=True)
    window = _window(sizes, kind)
    n_heads = _size(sizes, "num_attention_heads")
    if "kv_lora_rank" in sizes:
        most = _size(sizes, "index_topk") if kind == INDEXED else None
        name, n_kv_heads, streams = "MLA", 1, _latent_streams(sizes, n_heads, most=most)
        streams += _indexer_stream(sizes, i) if kind == INDEXED else ()
    else:
        require(kind != INDEXED, "only latent attention is known with an indexer, and the config says no kv_lora_rank")
        n_kv_heads, streams = _key_value_streams(sizes, n_heads)
        name = "MHA" if n_kv_heads == n_heads else "MQA" if n_kv_heads == 1 else "GQA"
    sight = "shared" if shared else "full" if window is None else "chunk" if kind == CHUNKED else "window"
    return Layer(name, sight, n_heads, n_kv_heads, streams, window, has_state=kind in (HYBRID, HYBRID_SLIDING))


def _window(sizes: dict[str, Any], kind: str) -> int | None:
    if "window" in sizes:
        return _size(sizes, "window")
    if kind in (SLIDING, HYBRID_SLIDING):
        require("sliding_window" in sizes, "sliding layers need a sliding_window, got none")
        return _size(sizes, "sliding_window")
    return _size(sizes, "attention_chunk_size") if kind == CHUNKED else None


def _key_value_streams(sizes: dict[str, Any], n_heads: int) -> tuple[int, tuple[Stream, ...]]:
    """Return how many heads are stored, and each one's key and value."""
    for name in ("num_key_value_heads", "head_dim"):
        known = name in sizes or is_known(sizes.get("model_type"))
        require(
            known,
            f"the config must say {name}: what the class of {sizes.get('model_type')!r} supplies is not known here",
        )
    n_kv_heads = _size(sizes, "num_key_value_heads") if "num_key_value_heads" in sizes else n_heads
    require(n_heads % n_kv_heads == 0, f"the {n_kv_heads} key/value heads must divide the {n_heads} query heads")
    dk = _head_dim(sizes, n_heads)
    dv = _size(sizes, "v_head_dim") if "v_head_dim" in sizes else dk
    return n_kv_heads, (Stream(dk, 2 * n_heads * dk), Stream(dv, 2 * n_heads * dv))


def _latent_streams(sizes: dict[str, Any], n_heads: int, *, most: int | None) -> tuple[Stream, ...]:
    """Return the latent, which absorbed attention multiplies into the score and into the mixture,
    and the shared rotated key.
    """
    latent, rope = _size(sizes, "kv_lora_rank"), _rope_width(sizes)
    return Stream(latent, 4 * n_heads * latent, most), Stream(rope, 2 * n_heads * rope, most)


def _indexer_stream(sizes: dict[str, Any], i: int) -> tuple[Stream, ...]:
    """DeepSeek-V3.2 keeps a second, small key, with which an indexer chooses the tokens whose latents are read.

    In some families a layer reads the tokens that an earlier layer's indexer chose, and keeps none of its own.
    """
    kinds = sizes.get("indexer_types") or _indexer_types(sizes)
    require(i < len(kinds), f"the indexers' kinds must be given for each layer, got {len(kinds)} of them")
    if kinds[i] != "full":
        return ()
    width = _size(sizes, "index_head_dim")
    return (Stream(width, 2 * _size(sizes, "index_n_heads") * width),)


def _indexer_types(sizes: dict[str, Any]) -> list[str]:
    n_layers = _size(sizes, "num_hidden_layers")
    if sizes.get("model_type") == "hy_v4":
        return ["shared" if i and (i - 1) % 4 else "full" for i in range(n_layers)]
    if sizes.get("index_topk_pattern"):
        return [{"F": "full", "S": "shared"}.get(letter, letter) for letter in sizes["index_topk_pattern"]]
    every, first = sizes.get("index_topk_freq", 1), sizes.get("index_skip_topk_offset", 2)
    return ["shared" if max(i - first + 1, 0) % every else "full" for i in range(n_layers)]


def _rope_width(sizes: dict[str, Any]) -> int:
    """Return the width of the rotated key; 0 where the positions stand nowhere in the keys, as in Kimi Linear."""
    return 0 if sizes.get("qk_rope_head_dim") == 0 else _size(sizes, "qk_rope_head_dim")


def _head_dim(sizes: dict[str, Any], n_heads: int) -> int:
    if "head_dim" in sizes:
        return _size(sizes, "head_dim")
    hidden = _size(sizes, "hidden_size")
    require(
        hidden % n_heads == 0, f"without head_dim, the {n_heads} heads must divide the hidden_size {hidden} into widths"
    )
    return hidden // n_heads
