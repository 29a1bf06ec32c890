"""Which fields of a config say what its layers keep: those that are understood, and those that merely sound like it."""

import re
from collections.abc import Mapping
from typing import Any

from attncourse._shared.validate import require

# The usual names of the sizes; older classes have others for them.
SIZES = {
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "sliding_window", "layer_types",
}  # fmt: skip

# Fields that `layers` and `patterns` read.
UNDERSTOOD = SIZES | {
    # heads and latents
    "v_head_dim", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "q_lora_rank", "qk_head_dim",
    "multi_query", "new_decoder_architecture", "attn_config", "num_attention_heads_per_layer",
    # an indexer
    "index_topk", "index_head_dim", "index_n_heads", "indexer_types", "index_topk_freq", "index_topk_pattern",
    "index_skip_topk_offset",
    # windows and chunks
    "use_sliding_window", "max_window_layers", "sliding_window_pattern", "_sliding_window_pattern", "sliding_window_size",
    "global_attn_every_n_layers", "hybrid_layer_pattern", "attention_chunk_size", "no_rope_layers", "no_rope_layer_interval",
    "local_attention", "local_layer_ids", "prefix_dense_sliding_window_pattern", "first_k_dense_replace",
    # layers that keep a state, or nothing
    "full_attention_interval", "attn_layer_indices", "full_attn_idxs", "attn_type_list", "block_types", "_block_types",
    "attn_layer_period", "attn_layer_offset", "layer_group_size", "hybrid_override_pattern", "layers_block_type",
    "linear_attn_config", "hybrid_layer_ids", "use_dsa",
    # layers that differ, or share
    "per_layer_config", "block_configs", "num_kv_shared_layers", "num_global_key_value_heads", "global_head_dim",
    "attention_k_eq_v", "use_cla", "cla_share_factor", "swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim",
    "swa_v_head_dim", "swa_kv_lora_rank", "swa_qk_rope_head_dim",
    # what the model is for
    "is_decoder", "is_encoder_decoder", "causal", "use_bidirectional_attention",
}  # fmt: skip

# Parts of a name that say it is about layers, heads, windows, chunks, sharing, compression or states.
LAYOUT = re.compile(
    r"layer|head|window|chunk|shar|attn|attention|kv|key_value|compress|lora|latent|block|recur|hybrid|pattern|period|interval"
    r"|every|sliding|swa|local|global|indexer|index_|cla_|mqa|gqa|query_group|multi_query|reuse|mem_len|cross|loop|cycle|kda|dsa|sparse|cache"
    r"|stack|depth|stride"
)
# Sizes of states: they say nothing of keys where the kinds of the layers are told, and that there are such layers where not.
STATE = re.compile(
    r"mamba|ssm|conv|lru|rglru|rwkv|wkv|state_size|time_step|linear_(num|key|value|head|conv)|retention|delta|kda"
)

# Words of names (between underscores) that concern weights, norms, experts, positions or training, and keep nothing.
HARMLESS_WORDS = frozenset(
    "dropout pdrop layerdrop drop bias norm layernorm normalization eps epsilon theta rope rotary softcap softcapping scale scaling "
    "scalar multiplier multipliers alpha beta gamma temperature expert experts moe router routed mlp ffn mtp nextn vocab "
    "intermediate initializer init std act activation quantization dtype implementation fp32 float32 upcast loss id token "
    "tokens image video audio vision flash gate ple laurel ngram byte tie embeddings embedding".split()
)
# Other names that were read in the classes, and keep nothing.
HARMLESS = frozenset(
    "output_hidden_states output_attentions chunk_size_feed_forward use_cache cache_implementation cross_attention_hidden_size "
    "pruned_heads tie_encoder_decoder parallel_attn num_ln_in_parallel_attn use_parallel_block clip_qkv "
    "qk_layernorm hidden_size_per_layer_input decoder_sparse_step "
    "num_dense_layers num_mem_blocks use_shared_attention_adapter n_layers_per_attn_res_block use_mamba_kernels use_mambapy "
    "block_multiple_of block_auto_adjust_ff_dim block_ff_dim block_dim block_use_swiglu query_pre_attn_scalar "
    "activation_sparsity_pattern for_llm_compressor add_classification_head".split()
)
# Names that keep nothing in these families, and might in others.
HARMLESS_IN = {
    "big_bird": {"attention_type", "block_size", "num_random_blocks"},  # a pattern of what is read: every key is kept
    "hrm_text": {"H_cycles", "L_cycles", "L_bp_cycles", "num_layers_per_stack"},
    "cohere2": {"layer_switch", "order_of_interleaved_layers"},
    "doge": {"keep_window_size"},  # a mask chooses among all keys
    "gpt_neo": {"attention_types", "attention_layers", "window_size"},  # its local layers keep every key, and read few
    "lfm2": {"num_heads"},
    "longcat_flash": {"num_layers"},
    "minimax": {"block_size"},
    "minimax_m3_vl_text": {"index_block_size", "index_topk_blocks", "index_local_blocks"},
    "moshi": {"depth_decoder_config"},  # another model, with a cache of its own
    "nemotron_h": {"chunk_size"},
    "phi3": {"full_attn_mod"},
    "xlm": {"mask_index", "unk_index"},
    "zamba": {"attention_hidden_size"},
    "zamba2": {"chunk_size", "attention_hidden_size", "kv_channels", "num_query_groups"},
}


# What a field holds, where a config has it at all.
HOLDS = {
    dict: {"per_layer_config", "attn_config", "linear_attn_config"},
    list: {
        "layer_types", "layers_block_type", "attn_type_list", "hybrid_layer_pattern", "attn_layer_indices", "full_attn_idxs",
        "local_layer_ids", "block_types", "_block_types", "block_configs", "indexer_types", "num_attention_heads_per_layer",
        "no_rope_layers",
    },
    int: {
        "attn_layer_offset", "num_kv_shared_layers", "max_window_layers", "no_rope_layer_interval", "index_topk_freq",
        "index_skip_topk_offset", "local_attention", "sliding_window_size", "first_k_dense_replace",
    },
}  # fmt: skip


ARTICLES = {dict: "a dict", list: "a list", int: "an integer of at least 0"}


def is_layout(name: str) -> bool:
    """Return whether a field of this name may say what layers keep, and is none that is known not to."""
    if name in UNDERSTOOD:
        return True
    harmless = name in HARMLESS or not HARMLESS_WORDS.isdisjoint(name.lower().split("_"))
    return bool(LAYOUT.search(name.lower()) or STATE.search(name.lower())) and not harmless


def check_fields(sizes: Mapping[str, Any], *, kinds_told: bool) -> None:
    """Check that nothing that may say what layers keep is left unread.

    Args:
        sizes: the config under the usual names.
        kinds_told: whether the config or its family says which layers keep a state; then the state's sizes are
            harmless.

    Raises:
        ValueError: a field that is not understood, with its value.
    """
    harmless = UNDERSTOOD | HARMLESS_IN.get(sizes.get("model_type", ""), set())
    unread = {name: value for name, value in sizes.items() if value and name not in harmless and is_layout(name)}
    if kinds_told:
        unread = {name: value for name, value in unread.items() if not STATE.search(name.lower())}
    said = ", ".join(f"{name}: {_short(value)}" for name, value in unread.items())
    require(
        not unread, f"fields about layers, heads, windows, sharing or compression must be understood; not so {said}"
    )


def check_kinds_of_values(sizes: Mapping[str, Any]) -> None:
    """Check that in sizes, what is to be counted is an integer of at least 0, and what is to be listed a list.

    Raises:
        ValueError: a field that holds something else.
    """
    for kind, names in HOLDS.items():
        for name in names & sizes.keys():
            value = sizes[name]
            good = isinstance(value, list | tuple) if kind is list else isinstance(value, kind)
            good = good and not (kind is int and value < 0)
            require(good, f"{name} must be {ARTICLES[kind]}, got {_short(value)}")


def _short(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
