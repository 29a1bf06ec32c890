"""The kind of each layer: as the config lists it, by a field that says which layers differ, or by the family's own rule.

Kinds have the names that Hugging Face's `layer_types` gives them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from attncourse._shared.validate import check_widths, require

FULL, SLIDING, CHUNKED, INDEXED = "full_attention", "sliding_attention", "chunked_attention", "indexed_attention"
LINEAR, CONV, HYBRID, HYBRID_SLIDING = "linear_attention", "conv", "hybrid", "hybrid_sliding"
NOTHING = ("moe", "mlp")

KINDS = {FULL, SLIDING, CHUNKED, INDEXED, LINEAR, CONV, HYBRID, HYBRID_SLIDING, *NOTHING}
OLDER_KINDS = {
    "attention": FULL, "mamba": LINEAR, "mamba2": LINEAR, "recurrent": LINEAR, "deepseek_sparse_attention": INDEXED,
}  # fmt: skip

LETTERS = {
    "f": FULL, "s": SLIDING, "c": CHUNKED, "i": INDEXED, "l": LINEAR, "k": CONV, "h": HYBRID, "H": HYBRID_SLIDING,
    "M": LINEAR, "*": FULL, "E": "moe", "-": "mlp", "L": SLIDING, "G": FULL,
}  # fmt: skip

# What a family's class does where a config lists no layers: "first ones|repeated|last ones", a letter a layer.
FAMILIES = {
    "axk2": "|i|", "beam": "|sssssf|f", "cohere2": "|sssf|", "cohere_compass_text": "|f|", "cwm": "|fsss|", "deepseek_v32": "|i|", "dots3_note_text": "ii|siss|",
    "exaone4": "|sssf|", "falcon_h1": "|h|", "falcon_mamba": "|l|", "flint": "ff|sfss|f", "gemma2": "|sf|", "gemma3_text": "|sssssf|",
    "gemma3n_text": "|ssssf|", "gemma4_text": "|sssssf|f", "gemma4_unified_text": "|sssssf|f", "glm_moe_dsa": "|i|", "gpt_oss": "|sf|",
    "granite_swa": "|fsss|", "granitemoe_swa": "|fsss|", "granitemoehybrid": "|l|", "hy_v4": "|i|", "inkling_text": "|HHHHHh|",
    "inkling2_text": "|HHHHHh|", "kimi_linear": "l|flll|", "kolibri1": "|ssssf|", "laguna": "|f|", "lara_mini": "|lslfs|",
    "lfm3": "k|skfk|", "mamba": "|l|", "mamba2": "|l|", "mellum": "|f|", "mimo_v2_flash": "f|sssssf|", "minimax": "|fl|",
    "minimax_m3_vl_text": "|f|", "modernbert-decoder": "|fss|", "nemotron_h": "ME*-||", "olmo3": "|sssf|", "olmo_hybrid": "|lllf|",
    "qwen3_5_text": "|lllf|", "qwen3_5_moe_text": "|lllf|", "qwen3_next": "|lllf|", "qwen4_exp_text": "|llli|", "recurrent_gemma": "|lls|", "rwkv": "|l|",
    "vaultgemma": "|sf|", "xlstm": "|l|", "zamba2": "l" + "lllllh" * 7 + "llllhlllhll||", "zaya": "|h|",
}  # fmt: skip
# Where nothing tells layers apart, a size says what they all are.
SIZED = {"sliding_window": SLIDING, "attention_chunk_size": CHUNKED, "index_topk": INDEXED}
# Families whose last layer sees everything, whatever their list says.
LAST_IS_FULL = ("gemma4_text", "gemma4_unified_text")


def layer_kinds(sizes: Mapping[str, Any], n_layers: int) -> tuple[list[str], bool]:
    """Return the kind of each of the layers, and whether the config or its family told them, rather than a size alone.

    Args:
        n_layers: how many there are.
        sizes: the config under the usual names, with its class's defaults.

    Raises:
        ValueError: a list of another length, a kind that is not known, or a field that does not fit the layers.
    """
    kinds = _listed(sizes) or _by_field(sizes, n_layers) or _by_family(sizes, n_layers)
    told = kinds is not None
    if kinds is None:
        kinds = [kind_by_size(sizes)] * n_layers
    kinds = [OLDER_KINDS.get(kind, kind) for kind in kinds]
    indexed = sizes.get("use_dsa", sizes.get("model_type") == "qwen4_exp_text" or None)
    if indexed is not None:  # classes whose attention to everything has an indexer, or never has
        old, new = (FULL, INDEXED) if indexed else (INDEXED, FULL)
        kinds = [new if kind == old else kind for kind in kinds]
    if sizes.get("model_type") in LAST_IS_FULL:
        kinds[-1] = FULL
    require(len(kinds) == n_layers, f"the config must name the {n_layers} layers' kinds, got {len(kinds)} of them")
    unknown = sorted(set(kinds) - KINDS)
    require(not unknown, f"layers must be {', '.join(sorted(KINDS))}, got {', '.join(map(str, unknown))}")
    return kinds, told


def kind_by_size(sizes: Mapping[str, Any]) -> str:
    """Return the kind that a layer's sizes alone tell."""
    return next((kind for size, kind in SIZED.items() if sizes.get(size)), FULL)


def _listed(sizes: Mapping[str, Any]) -> list[str] | None:
    """Return the kinds as the config lists them: by name, by letter, by number, or by the numbers of those that differ."""
    for name in ("layer_types", "layers_block_type"):
        if sizes.get(name):
            return list(sizes[name])
    if sizes.get("hybrid_override_pattern"):
        return [LETTERS.get(letter, letter) for letter in sizes["hybrid_override_pattern"]]
    for name, others, these in (("attn_type_list", LINEAR, FULL), ("hybrid_layer_pattern", FULL, SLIDING)):
        if sizes.get(name):
            return [these if flag else others for flag in sizes[name]]
    return None


def _by_field(sizes: Mapping[str, Any], n_layers: int) -> list[str] | None:
    """Return the kinds by the first field of the config that says which layers differ."""
    for name, rule in FIELDS.items():
        if sizes.get(name) not in (None, "", [], {}):
            return rule(sizes, n_layers)
    return None


def _by_family(sizes: Mapping[str, Any], n_layers: int) -> list[str] | None:
    if sizes.get("model_type") not in FAMILIES:
        return None
    first, repeated, last = FAMILIES[sizes["model_type"]].split("|")
    letters = [repeated[i % len(repeated)] for i in range(n_layers)] if repeated else list(first)
    letters[: len(first)] = first[: len(letters)]
    if last:
        letters[-1] = last
    kinds = [LETTERS[letter] for letter in letters]
    return kinds if sizes.get("sliding_window") else [FULL if kind == SLIDING else kind for kind in kinds]


def _every(name: str, *, others: str, these: str = FULL) -> Callable[[Mapping[str, Any], int], list[str]]:
    """Return the rule that the last one of every so many layers is of another kind, as this field says."""

    def rule(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
        every = sizes[name]
        if isinstance(every, str):  # EXAONE's "LLLG"
            return [LETTERS.get(every[i % len(every)], every) for i in range(n_layers)]
        check_widths(**{name: every})
        return [others if (i + 1) % every else these for i in range(n_layers)]

    return rule


def _among(name: str, *, others: str, these: str = FULL) -> Callable[[Mapping[str, Any], int], list[str]]:
    """Return the rule that the layers whose numbers this field lists are of another kind."""

    def rule(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
        chosen = set(sizes[name])
        require(chosen <= set(range(n_layers)), f"{name} must be among the layers 0..{n_layers - 1}, got {sizes[name]}")
        return [these if i in chosen else others for i in range(n_layers)]

    return rule


def _periodic(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
    """Return the kinds of Jamba, and of Zamba, whose first three are its own and whose attention has a state beside it."""
    period, offset = sizes["attn_layer_period"], sizes.get("attn_layer_offset", 0)
    check_widths(attn_layer_period=period)
    if sizes.get("model_type") == "zamba":
        return ([LINEAR, LINEAR, HYBRID] + [HYBRID if i % period == offset else LINEAR for i in range(n_layers - 3)])[
            :n_layers
        ]
    return [FULL if i % period == offset else LINEAR for i in range(n_layers)]


def _repeated_blocks(name: str) -> Callable[[Mapping[str, Any], int], list[str]]:
    """Return the rule of RecurrentGemma, whose attention is all within a window."""
    return lambda sizes, n_layers: [
        SLIDING if sizes[name][i % len(sizes[name])] == "attention" else LINEAR for i in range(n_layers)
    ]


def _grouped(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
    """Return the kinds of Ling and Ring; beyond the last whole group, models of other code differ."""
    size = sizes["layer_group_size"]
    check_widths(layer_group_size=size)
    whole = n_layers % size == 0 or sizes.get("model_type") == "bailing_hybrid"
    require(whole, f"layer_group_size must divide the {n_layers} layers, got {size}")
    return _every("layer_group_size", others=LINEAR)(sizes, n_layers)


def _kimi(sizes: Mapping[str, Any], n_layers: int) -> list[str] | None:
    """Return the kinds of Kimi Linear, whose two lists count layers from one."""
    listed = sizes["linear_attn_config"]
    full, linear = (set(listed.get(name, ())) for name in ("full_attn_layers", "kda_layers"))
    every = full | linear == set(range(1, n_layers + 1)) and not full & linear
    require(every, f"linear_attn_config must name each of the layers 1..{n_layers} once, got {listed}")
    return [FULL if i + 1 in full else LINEAR for i in range(n_layers)]


def _without_positions(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
    """Llama 4 cuts the layers with rotary positions into chunks, SmolLM3 lets those without slide."""
    every = sizes.get("no_rope_layer_interval", 4)
    with_positions = sizes.get("no_rope_layers") or [bool((i + 1) % every) for i in range(n_layers)]
    if sizes.get("attention_chunk_size"):
        return [CHUNKED if turned else FULL for turned in with_positions]
    slide = sizes.get("use_sliding_window") and sizes.get("sliding_window")
    return [SLIDING if slide and not turned else FULL for turned in with_positions]


def _first_full(sizes: Mapping[str, Any], n_layers: int) -> list[str] | None:
    """Qwen2's first layers see everything; Qwen2-MoE's first ones slide, every other one; Qwen3-MoE's all slide."""
    if not sizes.get("sliding_window") or sizes.get("model_type") == "qwen3_moe":
        return None
    first = sizes["max_window_layers"]
    if sizes.get("model_type") == "qwen2_moe":
        return [FULL if i % 2 or i >= first else SLIDING for i in range(n_layers)]
    return [FULL if i < first else SLIDING for i in range(n_layers)]


def _with_prefix(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
    """Cohere 2's experts: the dense layers before them have a pattern of their own."""
    first = sizes.get("first_k_dense_replace", 0)
    prefix = _every("prefix_dense_sliding_window_pattern", others=SLIDING)(sizes, first)
    return prefix + _every("sliding_window_pattern", others=SLIDING)(sizes, n_layers - first)


def _modern_bert(sizes: Mapping[str, Any], n_layers: int) -> list[str]:
    """ModernBERT sees everything in the first layer of every so many; the others do so in the last one."""
    if sizes.get("model_type") != "modernbert-decoder":
        return _every("global_attn_every_n_layers", others=SLIDING)(sizes, n_layers)
    return [SLIDING if i % sizes["global_attn_every_n_layers"] else FULL for i in range(n_layers)]


# In the order in which they count.
FIELDS = {
    "prefix_dense_sliding_window_pattern": _with_prefix,
    "sliding_window_pattern": _every("sliding_window_pattern", others=SLIDING),
    "_sliding_window_pattern": _every("_sliding_window_pattern", others=SLIDING),
    "global_attn_every_n_layers": _modern_bert,
    "local_layer_ids": _among("local_layer_ids", others=HYBRID, these=HYBRID_SLIDING),
    "full_attention_interval": _every("full_attention_interval", others=LINEAR),
    "attn_layer_indices": _among("attn_layer_indices", others=LINEAR),
    "full_attn_idxs": _among("full_attn_idxs", others=CONV),
    "block_types": _repeated_blocks("block_types"),
    "_block_types": _repeated_blocks("_block_types"),
    "attn_layer_period": _periodic,
    "layer_group_size": _grouped,
    "linear_attn_config": _kimi,
    "no_rope_layer_interval": _without_positions,
    "no_rope_layers": _without_positions,
    "max_window_layers": _first_full,
}
