"""The calculator against the cache that transformers fills: of every causal language model that can be built here.

Models are built on the meta device, a few of them tiny on a processor, where their code asks for numbers. Each config is
read three times: as little of it as was given, all of it, and as the class would save it.
"""

import json
import sys
import warnings

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from attncourse.kv_cache import cost
from attncourse.kv_cache.class_defaults import TABLE, table

from .class_defaults import class_defaults

STATES = {"linear_attention", "conv"}
CONTEXT = 10_000  # longer than most windows, so that they count
SOME = {"num_hidden_layers": 6}
TINY = {
    "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 99, "intermediate_size": 16,
    "max_position_embeddings": 64,
}  # fmt: skip
DECODER = SOME | {"is_decoder": True}
PICTURES = {"text_config": SOME}

# What a class needs, beside a number of layers, to be built and to keep keys.
GIVEN = {
    "bamba": SOME | {"attn_layer_indices": [1, 4]},
    "cohere_compass_text": SOME | {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "deepseek_v2": SOME | {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "dots1": SOME | {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "glm4_moe": SOME | {"head_dim": 128},
    "gpt_neo": SOME | {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": SOME | {"layer_types": ["mamba", "attention"] * 3},
    "hrm_text": {"num_hidden_layers": 1},
    "hunyuan_v1_dense": SOME | {"head_dim": 128},
    "hunyuan_v1_moe": SOME | {"head_dim": 128},
    "lfm2_moe": SOME | {"layer_types": ["conv", "full_attention"] * 3},
    "ministral": SOME | {"head_dim": 128},
    "nemotron": SOME | {"head_dim": 96, "num_key_value_heads": 8},
    "nemotron_h": {"num_hidden_layers": 4},
    "zamba": {"num_hidden_layers": 9},
    "zamba2": SOME | {"layers_block_type": ["mamba", "hybrid", "mamba"] * 2},
    "jamba": {"num_hidden_layers": 7},
    "kimi_linear": {"num_hidden_layers": 7},
    **dict.fromkeys(
        ("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "roberta", "roberta-prelayernorm",
         "roc_bert", "xlm-roberta", "xlm-roberta-xl"), DECODER,
    ),
    **dict.fromkeys(
        ("dots3_note", "emu3", "fuyu", "gemma3", "got_ocr2", "llama4", "moss_transcribe_diarize", "qwen3_5", "qwen3_5_moe"),
        PICTURES,
    ),
}  # fmt: skip
# Those whose code asks for numbers, which the meta device has not.
ON_PROCESSOR = {
    "big_bird": TINY | {"is_decoder": True},
    "biogpt": TINY,
    "dbrx": {"n_layers": 3, "d_model": 32, "n_heads": 4, "vocab_size": 99}
    | {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8}},
    "gemma3n_text": TINY
    | {"num_hidden_layers": 12, "num_kv_shared_layers": 2, "head_dim": 16, "num_key_value_heads": 2}
    | {"vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8},
    "jetmoe": TINY | {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4},
    "megatron-bert": TINY | {"is_decoder": True},
    "moshi": TINY | {"head_dim": 8, "ffn_dim": 16},
    "rembert": TINY | {"is_decoder": True},
    "roformer": TINY | {"is_decoder": True},
    "xmod": TINY | {"is_decoder": True, "default_language": "en_XX"},
}

# Refused by name: a part of the message, for each class whose layers keep something else, or another cache besides.
REFUSED = {
    **dict.fromkeys(
        ("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart", "whisper"),
        "decoder_layers: ",
    ),
    "blt": "local_attention_window_len: 512",
    "cpmant": "dim_head: 128",
    "deepseek_v4": "compress_rates: ",
    "dory": "n_recurrent_loops: 2",
    "falcon_mamba": "a state of fixed size",
    "gemma4_assistant": "reads another's",
    "gemma4_unified_assistant": "reads another's",
    "inkling2_loop_text": "loop_num_passes: 3",
    "mamba": "a state of fixed size",
    "mamba2": "num_heads: 128",
    "mllama": "cross_attention_layers: ",
    "musicgen": "must say num_attention_heads",
    "musicgen_melody": "must say num_attention_heads",
    "prophetnet": "num_decoder_layers: 12",
    "qwen4_exp": "indexer",
    "qwen4_exp_text": "indexer",
    "reformer": "attn_layers: ",
    "rwkv": "rescale_every: 6",
    "xlm": "keeps no cache",
    "xlnet": "mem_len: 512",
    "xlstm": "chunk_size: 64",
}  # fmt: skip
# Not compared, and why.
UNBUILT = {
    "gemma3n": "its vision tower needs timm; gemma3n_text is compared",
    "gemma4": "its code asks for numbers of pictures; gemma4_text is compared",
    "gemma4_unified": "its code asks for numbers of pictures; gemma4_unified_text is compared",
    "longcat_flash": "its experts ask for numbers, and it is too large for a processor",
    "openai-gpt": "its class keeps no cache at all",
}
COMPARED = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - REFUSED.keys() - UNBUILT.keys())

# Configs that differ from their class's own in what layers keep.
VARIANTS = [
    ("afmoe", SOME | {"global_attn_every_n_layers": 2}),
    ("bailing_hybrid", SOME | {"layer_group_size": 3}),
    ("cohere2", SOME | {"sliding_window_pattern": 2}),
    ("cohere2_moe", SOME | {"first_k_dense_replace": 3, "prefix_dense_sliding_window_pattern": 2}),
    ("deepseek_v3", SOME | {"kv_lora_rank": 24, "qk_rope_head_dim": 6}),
    ("dots1", GIVEN["dots1"] | {"sliding_window": 64, "max_window_layers": 2}),
    ("dots3_note_text", SOME | {"swa_kv_lora_rank": 48, "swa_qk_rope_head_dim": 32, "swa_head_dim": 224, "sliding_window_size": 99}),
    ("exaone4", SOME | {"sliding_window_pattern": 2}),
    ("falcon", SOME | {"multi_query": False}),
    ("gemma2", {"num_hidden_layers": 5, "head_dim": 32, "sliding_window": 77}),
    ("gemma3_text", SOME | {"sliding_window_pattern": 3}),
    ("gemma4_text", {"num_hidden_layers": 13, "num_kv_shared_layers": 5}),
    ("gemma4_text", SOME | {"num_global_key_value_heads": 1, "attention_k_eq_v": True, "global_head_dim": 320}),
    ("gemma4_text", SOME | {"num_global_key_value_heads": 1}),
    ("gemma4_text", SOME | {"layer_types": ["sliding_attention"] * 6}),
    ("gemma4_unified_text", SOME | {"num_global_key_value_heads": 1}),
    ("glm_moe_dsa", {"num_hidden_layers": 7, "index_topk_freq": 3}),
    ("glm_moe_dsa", SOME | {"index_topk_pattern": "FSFSSF"}),
    ("gpt_bigcode", SOME | {"multi_query": False}),
    ("gpt_oss", SOME | {"layer_types": ["full_attention"] * 4 + ["sliding_attention"] * 2}),
    ("hy_v4", {"num_hidden_layers": 9}),
    ("inkling_text", SOME | {"local_layer_ids": [0, 2]}),
    ("jamba", SOME | {"attn_layer_period": 3, "attn_layer_offset": 1}),
    ("kimi_linear", SOME | {"linear_attn_config": {"full_attn_layers": [2, 6], "kda_layers": [1, 3, 4, 5]}}),
    ("laguna", {"num_hidden_layers": 2, "num_attention_heads_per_layer": [48, 16]}),
    ("lfm2", SOME | {"full_attn_idxs": [1, 4]}),
    ("llama", SOME | {"head_dim": 24, "num_key_value_heads": 4}),
    ("gemma4_text", SOME | {"per_layer_config": {"05": {"head_dim": 320, "num_key_value_heads": 2}}}),
    ("llama4_text", SOME | {"no_rope_layers": [1, 0, 0, 1, 1, 0]}),
    ("llama4_text", SOME | {"attention_chunk_size": None}),
    ("mimo_v2_flash", SOME | {"sliding_window_size": 64}),
    ("mistral", SOME | {"sliding_window": None}),
    ("modernbert-decoder", SOME | {"local_attention": 20, "global_attn_every_n_layers": 2}),
    ("nemotron_h", {"hybrid_override_pattern": "M*-ME*"}),
    ("qwen2", SOME | {"use_sliding_window": True, "max_window_layers": 2}),
    ("qwen2_moe", SOME | {"use_sliding_window": True, "max_window_layers": 3}),
    ("qwen3_moe", SOME | {"use_sliding_window": True}),
    ("qwen3_next", SOME | {"full_attention_interval": 3}),
    ("recurrent_gemma", SOME | {"block_types": ["recurrent", "attention"], "attention_window_size": 64}),
    ("smollm3", SOME | {"use_sliding_window": True, "sliding_window": 64}),
    ("zamba", {"num_hidden_layers": 12, "attn_layer_period": 4, "attn_layer_offset": 1}),
    ("zaya", SOME | {"layer_types": ["hybrid", "hybrid_sliding"] * 3, "sliding_window": 64}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def models_without_kernels_for_gpus(monkeypatch):
    """transformers takes the kernels of flash-linear-attention where it finds them, and they need a GPU."""
    monkeypatch.setitem(sys.modules, "fla", None)


def configuration(kind, given):
    return CONFIG_MAPPING[kind](**json.loads(json.dumps(given)))  # classes change what they are given


def kept_by_transformers(config, device):
    """Of each layer: heads, widths, and the window of what the model's own cache holds; None where it holds no keys."""
    config._experts_implementation = "batched_mm"  # of fixed shapes, as the meta device needs
    with torch.device(device), torch.no_grad(), no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        own = {"cache": DynamicCache(config=config)} if config.model_type == "recurrent_gemma" else {}
        out = model(input_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=True, **own)
    cache = own.get("cache") or out.past_key_values
    kept = [_kept(layer) for layer in getattr(cache, "self_attention_cache", cache).layers]
    n_layers = config.get_text_config(decoder=True).num_hidden_layers
    return kept + [None] * (n_layers - len(kept))  # MiniMax's ends with its last keys


def _kept(layer):
    if getattr(layer, "keys", None) is None:
        return None
    indexer = getattr(layer, "indexer_keys", None)
    widths = [layer.keys.shape[3], layer.values.shape[3]] + ([] if indexer is None else [indexer.shape[2]])
    assert layer.keys.dtype == torch.bfloat16
    return layer.keys.shape[1], tuple(widths), getattr(layer, "sliding_window", None)


def kept_by_us(config):
    found = cost(config, context=CONTEXT)
    return [(x.shape.n_kv_heads, x.shape.widths, x.window) if x.bytes_per_token else None for x in found.layers]


def forms(config, given):
    """As little of a config as was given, all of it, and what its class saves."""
    whole = json.loads(json.dumps(config.to_dict()))
    return {"model_type": config.model_type} | given, whole, json.loads(config.to_json_string())


def compare(kind, given, device="meta"):
    config = configuration(kind, given)
    theirs = kept_by_transformers(config, device)
    assert any(theirs)
    size = sum(
        2 * heads * sum(widths) * min(CONTEXT, window or CONTEXT) for heads, widths, window in filter(None, theirs)
    )
    for form in forms(config, given):
        assert kept_by_us(form) == theirs
        assert cost(form, context=CONTEXT).bytes_total == size


@pytest.mark.parametrize("kind", COMPARED)
def test_each_class_keeps_what_is_said(kind):
    on_processor = kind in ON_PROCESSOR
    compare(kind, ON_PROCESSOR.get(kind) or GIVEN.get(kind, SOME), "cpu" if on_processor else "meta")


def test_falcons_second_form_is_counted_before_its_keys_are_copied():
    """transformers copies the keys to every query head before it keeps them; other servers need not, and we do not."""
    given = SOME | {"num_attention_heads": 8, "num_kv_heads": 4, "hidden_size": 64, "new_decoder_architecture": True}
    config = configuration("falcon", given)
    assert kept_by_transformers(config, "meta") == [(8, (8, 8), None)] * 6
    assert all(kept_by_us(form) == [(4, (8, 8), None)] * 6 for form in forms(config, given))


@pytest.mark.parametrize(("kind", "given"), VARIANTS, ids=[f"{kind}-{list(given)[-1]}" for kind, given in VARIANTS])
def test_configs_that_differ_from_their_class(kind, given):
    compare(kind, given)


def test_how_many_classes_are_compared():
    """A class that transformers gains has to be read, refused or listed."""
    assert len(COMPARED) >= 156 and len(VARIANTS) >= 40
    listed = REFUSED.keys() | UNBUILT.keys() | GIVEN.keys() | ON_PROCESSOR.keys()
    assert listed <= MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys(), listed - MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    assert len(REFUSED.keys() | UNBUILT.keys()) == len(REFUSED) + len(UNBUILT) <= 40


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_understood_is_refused_by_name(kind):
    with pytest.raises(ValueError) as refusal:
        cost({"model_type": kind, "num_hidden_layers": 6}, context=1)
    assert REFUSED[kind] in str(refusal.value)


@pytest.mark.parametrize("n_layers", [5, 12, 31])
def test_kinds_of_layers_are_those_of_the_classes(n_layers):
    """Without building a model: where a class lists the kinds of as many layers, ours see as far and keep as much."""
    counted = 0
    for kind in COMPARED:
        if kind in ON_PROCESSOR or kind in ("gpt_neo", "zamba", "zamba2"):  # whose lists go with one number of layers
            continue
        theirs = getattr(configuration(kind, {"num_hidden_layers": n_layers}), "layer_types", None)
        if theirs is None or len(theirs) != n_layers or set(theirs) <= STATES:
            continue
        layers = cost({"model_type": kind, "num_hidden_layers": n_layers}, context=CONTEXT).layers
        windows = [layer.window is not None for layer in layers]
        assert windows == ["sliding" in name or name == "chunked_attention" for name in theirs], kind
        assert [layer.design == "state" for layer in layers] == [name in STATES for name in theirs], kind
        counted += 1
    assert counted >= 50


def test_the_table_of_defaults_is_that_of_the_classes():
    """Written again by `python tests/class_defaults.py`, where the version of transformers has changed."""
    assert json.loads(json.dumps(class_defaults(table().keys() & set(CONFIG_MAPPING)))) == table(), (
        f"{TABLE.name} is not transformers {transformers.__version__}'s"
    )
