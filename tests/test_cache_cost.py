"""The calculator of cache bytes: counted by hand, against published figures, against Hugging Face's configs, by brute force."""

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncourse._shared.cache import CacheShape
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import (
    MODELS,
    ContiguousCache,
    Fp8,
    Int4,
    Int8,
    PagedCache,
    PagePool,
    RingCache,
    cost,
    published_figures,
)
from attncourse.kv_cache.cost import STORED
from attncourse.latent import LatentAttention
from attncourse.models.decoder import DecoderLM

bad_input = pytest.mark.bad_input


def grouped(n_heads=8, n_kv_heads=2, head_dim=16, layers=3, **more):
    return {
        "num_hidden_layers": layers, "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads,
        "hidden_size": n_heads * head_dim, "head_dim": head_dim, **more,
    }  # fmt: skip


def latent(n_heads=8, rank=32, rope=8, layers=3):
    return {
        "num_hidden_layers": layers, "num_attention_heads": n_heads, "num_key_value_heads": n_heads,
        "kv_lora_rank": rank, "qk_rope_head_dim": rope, "qk_nope_head_dim": 16, "v_head_dim": 16,
    }  # fmt: skip


# Published figures, to the digit that is printed.


@pytest.mark.parametrize("figure", published_figures(), ids=lambda figure: figure.what)
def test_published_figures(figure):
    """All but one are as printed: of the two ratios of Zhao et al. 2025, table 1, the second is not its own figures'."""
    if figure.printed == "7.28":
        assert not figure.agrees and figure.rounded == "7.34"
    else:
        assert figure.agrees, figure


def test_bytes_a_token_by_hand_as_zhao_2025_prints_them():
    """https://arxiv.org/abs/2505.09343, table 1, from the sizes of the three models themselves."""
    by_hand = {
        "deepseek-v3": (512 + 64) * 61 * 2,
        "qwen2.5-72b": 2 * 8 * 128 * 80 * 2,
        "llama-3.1-405b": 2 * 8 * 128 * 126 * 2,
    }
    assert by_hand == {"deepseek-v3": 70_272, "qwen2.5-72b": 327_680, "llama-3.1-405b": 516_096}
    assert {name: cost(name, context=1).bytes_per_token for name in by_hand} == by_hand


def test_formulas_of_deepseek_v2_table_1():
    """DeepSeek-AI 2024, https://arxiv.org/abs/2405.04434, table 1: elements a token of l layers."""
    h, g, dh, layers = 128, 8, 128, 60
    rank, rope = 4 * dh, dh // 2
    assert cost(grouped(h, h, dh, layers), context=1).elements_per_token == 2 * h * dh * layers
    assert cost(grouped(h, g, dh, layers), context=1).elements_per_token == 2 * g * dh * layers
    assert cost(grouped(h, 1, dh, layers), context=1).elements_per_token == 2 * dh * layers
    found = cost("deepseek-v2", context=1).elements_per_token
    assert found == (rank + rope) * layers == 9 / 2 * dh * layers
    assert found == 2.25 * cost(grouped(h, 1, dh, layers), context=1).elements_per_token, "GQA with 2.25 groups"


def test_elements_a_token_of_deepseek_v2_table_9():
    """Appendix D.2 of the same: with MLA the two models keep 14% and 4% of what they keep with MHA.

    The heads of the two MHA models are not printed; 16 of width 128 in 27 layers, as in V2-Lite, give the small figure,
    and 7168 entries of keys in 60 layers, 56 heads of width 128, the large one.
    """
    heads = {"deepseek-v2-lite": (27, 16), "deepseek-v2": (60, 56)}
    mha = [cost(grouped(h, h, 128, layers), context=1).elements_per_token for layers, h in heads.values()]
    assert [f"{x / 1000:.1f}" for x in mha] == ["110.6", "860.2"]
    shares = [cost(name, context=1).elements_per_token / x for name, x in zip(heads, mha, strict=True)]
    assert [f"{share:.0%}" for share in shares] == ["14%", "4%"]


def test_the_93_3_percent_of_deepseek_v2_need_its_6_bits():
    """The abstract's reduction against DeepSeek 67B; section 3.2.3 says that V2 is deployed with 6 bits an element."""
    v2, dense = (cost(name, context=1).elements_per_token for name in ("deepseek-v2", "deepseek-67b"))
    assert f"{1 - v2 / dense:.1%}" == "82.2%", "in equal precision"
    assert f"{1 - v2 * 8 / (dense * 16):.1%}" == "91.1%", "in 8 bits"


# By hand, and by other people's code.


def test_counted_by_hand():
    found = cost(grouped(8, 2, 16, layers=3), context=10, batch=4, dtype="float16")
    assert found.bytes_per_token == 3 * 2 * (16 + 16) * 2
    assert found.bytes_per_sequence == 10 * found.bytes_per_token and found.bytes_total == 4 * found.bytes_per_sequence
    assert found.bytes_read_on_device == found.bytes_total
    assert found.layers[0].shape == CacheShape(2, (16, 16)) and found.layers[0].design == "GQA"
    # scores and mixtures: 8 heads, 16 products and 16 sums each way, 10 tokens, 3 layers, 4 sequences
    assert found.flops_per_step == 8 * (2 * 16 + 2 * 16) * 10 * 3 * 4
    compressed = cost(latent(8, 32, 8, layers=3), context=10, dtype="float32")
    assert compressed.bytes_per_token == 3 * (32 + 8) * 4
    assert compressed.flops_per_step == 8 * (2 * (32 + 8) + 2 * 32) * 10 * 3
    assert compressed.layers[0].shape == CacheShape(1, (32, 8)) and compressed.layers[0].design == "MLA"


def test_values_may_be_narrower_than_keys():
    assert cost(grouped(8, 2, 16, layers=1, v_head_dim=6), context=1).elements_per_token == 2 * (16 + 6)


def test_an_indexer_adds_a_key_and_reads_few_latents():
    config = latent(8, 32, 8, layers=1) | {"index_topk": 4, "index_head_dim": 6, "index_n_heads": 5}
    short, long = (cost(config, context=n, dtype="float32") for n in (3, 100))
    assert short.elements_per_token == 32 + 8 + 6
    assert short.bytes_read_on_device == short.bytes_total
    assert long.bytes_read_on_device == 4 * (4 * (32 + 8) + 100 * 6)
    assert long.flops_per_step == 4 * 8 * (2 * (32 + 8) + 2 * 32) + 100 * 2 * 5 * 6


CLASSES = {
    "gpt2": ("gpt2", "GPT2Config"),
    "falcon-7b": ("falcon", "FalconConfig"),
    "mistral-7b-v0.1": ("mistral", "MistralConfig"),
    "gpt-oss-120b": ("gpt_oss", "GptOssConfig"),
    "deepseek-v3": ("deepseek_v3", "DeepseekV3Config"),
    "deepseek-v3.2": ("deepseek_v32", "DeepseekV32Config"),
    "minicpm3-4b": ("minicpm3", "MiniCPM3Config"),
}


def configuration(folder, name, **sizes):
    return getattr(importlib.import_module(f"transformers.models.{folder}"), name)(**sizes)


@pytest.mark.parametrize("model", CLASSES)
def test_sizes_are_those_of_transformers_defaults(model):
    """Whole configs, read as they are, cost what the table's few numbers cost."""
    theirs = configuration(*CLASSES[model]).to_dict()
    if model == "minicpm3-4b":
        theirs["v_head_dim"] = None  # the class fills it in as it likes; it does not count
    assert cost(theirs, context=10_000).layers == cost(model, context=10_000).layers


@pytest.mark.parametrize(
    ("folder", "name", "model_type", "window"),
    [
        ("gemma2", "Gemma2Config", "gemma2", 4096),
        ("gemma3", "Gemma3TextConfig", "gemma3_text", 1024),
        ("cohere2", "Cohere2Config", "cohere2", 4096),
        ("gpt_oss", "GptOssConfig", "gpt_oss", 128),
    ],
)
def test_layers_slide_where_transformers_lets_them(folder, name, model_type, window):
    """What the model's code decides where a config lists no layers."""
    theirs = configuration(folder, name, num_hidden_layers=13, sliding_window=window).layer_types
    bare = grouped(layers=13, model_type=model_type, sliding_window=window)
    listed = grouped(layers=13, layer_types=theirs, sliding_window=window)
    assert cost(bare, context=10_000).layers == cost(listed, context=10_000).layers
    assert len(set(theirs)) == 2


def test_qwens_window_is_off_unless_it_says_otherwise():
    """Qwen2 configs hold a sliding_window that `use_sliding_window` turns off; on, the first layers see everything."""
    off = grouped(layers=5, sliding_window=8, use_sliding_window=False, max_window_layers=2)
    assert [layer.window for layer in cost(off, context=10).layers] == [None] * 5
    theirs = configuration("qwen2", "Qwen2Config", **off | {"use_sliding_window": True}).layer_types
    windows = [8 if kind == "sliding_attention" else None for kind in theirs]
    assert [layer.window for layer in cost(off | {"use_sliding_window": True}, context=10).layers] == windows
    assert windows == [None, None, 8, 8, 8]


def test_a_config_of_pictures_and_text_is_read_for_its_text():
    text = grouped(layers=6, sliding_window=5)
    whole = {"model_type": "gemma3", "vision_config": {"num_hidden_layers": 99}, "text_config": text}
    alone = text | {"model_type": "gemma3_text"}
    assert cost(whole, context=10).layers == cost(alone, context=10).layers != cost(text, context=10).layers
    unknown = {"model_type": "of-its-own", "llm_config": text}
    assert cost(unknown, context=10).layers == cost(text, context=10).layers


def test_what_is_null_is_as_if_not_there():
    assert cost(grouped(sliding_window=None, kv_lora_rank=None), context=9) == cost(grouped(), context=9)


def test_every_model_of_the_table_has_a_source_and_costs_something():
    assert len(MODELS) >= 25
    for name, model in MODELS.items():
        assert cost(name, context=7) == cost(model.config, context=7)
        assert "https://" in model.source and model.confirmed and model.parameters > 0


# Properties.

SIZES = st.integers(1, 9)
PRECISIONS = st.sampled_from(sorted(STORED))


@given(context=st.integers(1, 60), window=st.integers(1, 60), dtype=PRECISIONS)
def test_a_window_as_long_as_the_context_is_none(context, window, dtype):
    full = cost(grouped(), context=context, dtype=dtype).bytes_per_sequence
    local = cost(grouped(sliding_window=window), context=context, dtype=dtype).bytes_per_sequence
    assert local == full if window >= context else local < full
    longer = cost(grouped(sliding_window=window), context=context + 1, dtype=dtype).bytes_per_sequence
    assert (longer == local) == (context >= window), "a window's cache grows until the window is full"


@given(context=SIZES, batch=SIZES, dtype=PRECISIONS)
def test_more_heads_tokens_or_sequences_cost_more(context, batch, dtype):
    def total(kv_heads, n=context, b=batch):
        return cost(grouped(8, kv_heads), context=n, batch=b, dtype=dtype).bytes_total

    assert total(1) < total(2) < total(4) < total(8)
    assert (
        total(8)
        == cost({**grouped(8), "num_key_value_heads": None}, context=context, batch=batch, dtype=dtype).bytes_total
    )
    assert total(2) < total(2, n=context + 1) and total(2) < total(2, b=batch + 1)


@given(context=st.integers(1, 70), window=st.none() | st.integers(1, 70), page=st.integers(1, 20))
def test_whole_pages_are_held(context, window, page):
    found = cost(grouped(sliding_window=window), context=context, page_size=page)
    seen = range(max(0, context - (window or context)), context)
    assert found.layers[0].tokens == page * len({position // page for position in seen})
    assert found.bytes_read_on_device == found.layers[0].bytes_per_token * 3 * len(seen), (
        "of a page, what is seen is read"
    )


@given(
    kv=st.sampled_from([1, 2, 4, 8]), queries=st.sampled_from([1, 2, 4]), devices=st.sampled_from([1, 2, 4, 8]), context=SIZES
)  # fmt: skip
def test_a_device_stores_the_heads_that_its_query_heads_read(kv, queries, devices, context):
    n_heads = kv * queries
    if n_heads % devices:
        return
    found = cost(grouped(n_heads, kv), context=context, tensor_parallel=devices)
    share = n_heads // devices
    read = [{head // queries for head in range(d * share, (d + 1) * share)} for d in range(devices)]
    per_head = found.bytes_per_sequence // kv
    assert [found.bytes_per_sequence_on_device] * devices == [len(heads) * per_head for heads in read]
    assert found.copies == sum(map(len, read)) / kv
    assert found.flops_per_byte == found.flops_per_step / devices / found.bytes_read_on_device


@pytest.mark.parametrize("config", [latent(8), grouped(8, 1)])
def test_one_stored_head_is_copied_to_every_device(config):
    alone, shared = (cost(config, context=9, batch=3, tensor_parallel=t) for t in (1, 8))
    assert alone.copies == 1 and shared.copies == 8
    assert alone.bytes_on_device == shared.bytes_on_device == alone.bytes_total == shared.bytes_total


@pytest.mark.parametrize(
    ("dtype", "width", "group", "size"),
    [
        ("float32", 7, None, 28),
        ("bfloat16", 7, None, 14),
        ("float8_e4m3fn", 64, 32, 64 + 2 * 4),  # two scales
        ("int8", 64, 32, 64 + 2 * 8),  # two scales, two zeros
        ("int4", 64, None, 32 + 8),
        ("int4", 64, 16, 32 + 4 * 8),
    ],
)
def test_scales_and_zeros_are_counted(dtype, width, group, size):
    config = grouped(8, 2, width, layers=3)
    assert cost(config, context=1, dtype=dtype, group=group).bytes_per_token == 3 * 2 * 2 * size


# Caches that are really allocated.

CODECS = {"float8_e4m3fn": Fp8, "int8": Int8, "int4": Int4}


@pytest.mark.parametrize("config", [grouped(8, 8), grouped(8, 2), grouped(8, 1), latent(8, 32, 8)])
@pytest.mark.parametrize("dtype", STORED)
def test_a_contiguous_cache_of_every_layer_takes_what_is_said(config, dtype):
    found = cost(config, context=13, batch=3, dtype=dtype, group=8)
    codec = CODECS[dtype](8) if dtype in CODECS else None
    kind = torch.float32 if codec else getattr(torch, dtype)
    caches = [ContiguousCache(3, layer.shape, capacity=13, dtype=kind, codec=codec) for layer in found.layers]
    assert sum(cache.nbytes for cache in caches) == found.bytes_total
    assert caches[0].token_nbytes == found.layers[0].bytes_per_token


def test_a_ring_where_a_layer_slides():
    config = grouped(layers=6, sliding_window=5, sliding_window_pattern=3)
    found = cost(config, context=13, batch=2, dtype="float32")
    caches = [
        ContiguousCache(2, layer.shape, capacity=13) if layer.window is None else RingCache(2, layer.shape, window=5)
        for layer in found.layers
    ]
    assert [type(cache).__name__ for cache in caches] == ["RingCache", "RingCache", "ContiguousCache"] * 2
    assert sum(cache.nbytes for cache in caches) == found.bytes_total


def test_pages_that_are_taken():
    found = cost(grouped(layers=1), context=13, batch=3, dtype="float32", page_size=4)
    pool = PagePool(20, found.layers[0].shape, page_size=4)
    cache = PagedCache(3, pool)
    cache.append(*(torch.zeros(3, 2, 13, 16) for _ in range(2)))
    assert cache.nbytes == found.bytes_total


LAYERS = {
    "GQA": (grouped(4, 2, 8, layers=2), lambda: GroupedQueryAttention(32, 4, n_kv_heads=2)),
    "MLA": (
        latent(4, rank=16, rope=8, layers=2),
        lambda: LatentAttention(32, 4, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16),
    ),
}


@pytest.mark.parametrize("design", LAYERS)
def test_a_model_that_reads_a_text_fills_what_is_said(design):
    config, layer = LAYERS[design]
    found = cost(config, context=11, batch=3, dtype="float32")
    model = DecoderLM(20, d_model=32, n_heads=4, n_layers=2, context=16, attention=layer)
    caches = [ContiguousCache(3, kept.shape, capacity=16) for kept in found.layers]
    with torch.no_grad():
        for piece in torch.randint(20, (3, 11)).split((6, 1, 4), dim=1):
            model(piece, caches=caches)
    assert sum(cache.used_nbytes for cache in caches) == found.bytes_total
    assert layer().cache_shape == found.layers[0].shape and found.layers[0].design == design


# Layers that differ, share, or keep no keys.

SIZES_OF_32 = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
ONE_LAYER = 2 * 8 * 128 * 2  # bytes a token of each of these layers, in bfloat16


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (SIZES_OF_32 | {"model_type": "bamba", "attn_layer_indices": [9, 18, 27]}, 3 * 32768 * ONE_LAYER),
        (SIZES_OF_32 | {"model_type": "jamba"}, 4 * 32768 * ONE_LAYER),
        (
            {"model_type": "recurrent_gemma", "_block_types": ["recurrent", "recurrent", "attention"],
             "attention_window_size": 2048, "hidden_size": 2560, "num_hidden_layers": 26, "num_attention_heads": 10,
             "num_key_value_heads": 1, "head_dim": 256},
            8 * 2048 * 2 * 256 * 2,
        ),
        (
            {"model_type": "minimax_text_01", "attn_type_list": ([0] * 7 + [1]) * 10, "hidden_size": 6144,
             "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128},
            10 * 32768 * ONE_LAYER,
        ),
        (
            {"model_type": "llama4_text", "attention_chunk_size": 8192, "hidden_size": 5120, "num_hidden_layers": 48,
             "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128},
            (12 * 32768 + 36 * 8192) * ONE_LAYER,
        ),
        (SIZES_OF_32 | {"model_type": "hunyuan", "use_cla": True, "cla_share_factor": 2}, 16 * 32768 * ONE_LAYER),
        (
            {"model_type": "nemotron-nas", "hidden_size": 4096, "num_hidden_layers": 3, "num_attention_heads": 32,
             "block_configs": [{"attention": {"n_heads_in_group": 4}}, {"attention": {"no_op": True}},
                               {"attention": {"n_heads_in_group": 8, "window_length": 512}}]},
            32768 * ONE_LAYER + 512 * ONE_LAYER // 2,
        ),
    ],
    ids=lambda x: x["model_type"] if isinstance(x, dict) else "",
)  # fmt: skip
def test_hybrids_count_the_layers_that_keep_keys(config, size):
    assert cost(config, context=32768).bytes_per_sequence == size


def test_a_shared_layer_is_read_and_not_stored():
    found, alone = (cost(grouped(layers=4, **more), context=10) for more in ({"num_kv_shared_layers": 2}, {}))
    assert [layer.kind for layer in found.layers] == ["full", "full", "shared", "shared"]
    assert found.bytes_total == alone.bytes_total / 2 and found.bytes_read_on_device == alone.bytes_read_on_device
    assert found.flops_per_step == alone.flops_per_step
    assert cost(grouped(4, 4, layers=4, num_kv_shared_layers=2), context=10, tensor_parallel=4).copies == 1


def test_layers_may_have_sizes_of_their_own():
    found = cost(
        grouped(layers=3, per_layer_config={"1": {"num_key_value_heads": 1}, "02": {"sliding_window": 4}}), context=10
    )
    assert [(layer.shape.n_kv_heads, layer.window) for layer in found.layers] == [(2, None), (1, None), (2, 4)]
    listed = cost(grouped() | {"num_key_value_heads": [1, 2, 4], "head_dim": [16, 8, 4]}, context=10)
    assert [layer.shape for layer in listed.layers] == [
        CacheShape(1, (16, 16)), CacheShape(2, (8, 8)), CacheShape(4, (4, 4)),
    ]  # fmt: skip


def test_a_state_is_named_and_not_counted():
    found = cost(grouped(layers=3, layer_types=["linear_attention", "hybrid", "conv"]), context=10)
    assert [(layer.design, layer.kind, layer.has_state) for layer in found.layers] == [
        ("state", "none", True), ("GQA", "full", True), ("state", "none", True),
    ]  # fmt: skip
    assert found.bytes_total == cost(grouped(layers=1), context=10).bytes_total


def test_the_published_gemmas_as_their_files_leave_them():
    """Gemma 3 leaves head_dim to its class; Gemma 4's full layers have fewer and wider heads."""
    published = {
        "model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16,
        "num_hidden_layers": 48, "num_key_value_heads": 8, "sliding_window": 1024,
    }  # fmt: skip
    assert cost(published, context=32768).layers == cost("gemma-3-12b", context=32768).layers
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 8
    gemma_4 = {
        "model_type": "gemma4_text", "hidden_size": 3840, "num_hidden_layers": 48, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 256, "num_global_key_value_heads": 1, "global_head_dim": 512,
        "attention_k_eq_v": True, "sliding_window": 1024, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0,
        "layer_types": kinds,
    }  # fmt: skip
    assert cost(gemma_4, context=32768).bytes_per_sequence == 40 * 1024 * 2 * 8 * 256 * 2 + 8 * 32768 * 2 * 512 * 2


def test_a_window_of_no_tokens_is_none_and_latents_may_have_no_positions():
    assert cost(grouped(sliding_window=0), context=9) == cost(grouped(), context=9)
    found = cost(latent(rank=32, rope=0), context=9, dtype="float32")
    assert found.bytes_per_token == 3 * 32 * 4 and found.layers[0].shape == CacheShape(1, (32, 0))


UNREAD = {
    "kv_share_every": 2, "attention_window_pattern": [1, 2], "n_local_layers": 4, "layer_kinds": ["a"], "num_memory_heads": 3,
    "compression_ratio": 4, "kv_compress_rate": 8, "attn_stride": 2, "multi_query_group_num": 2, "dense_attention_every_n_layers": 2,
    "chunked_prefix": 128, "mamba_d_state": 16, "ssm_cfg": {"layer": "Mamba2"}, "cross_layer_sharing": True,
    "latent_width": 12, "blocksparse_block_size": 64, "reuse_cache_layers": [3], "hybrid_ratio": 3, "global_window": 9,
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
@bad_input
def test_a_field_about_layers_that_is_not_understood_is_refused_by_name(name):
    for model_type in (None, "llama"):
        with pytest.raises(ValueError, match=f"must be understood; not so {name}: "):
            cost(grouped(model_type=model_type, **{name: UNREAD[name]}), context=9)
    assert cost(grouped(**{name: None}), context=9) == cost(grouped(), context=9), "null says nothing"


def test_fields_that_only_sound_like_it_are_passed_over():
    harmless = {
        "layer_norm_eps": 1e-5, "attention_dropout": 0.1, "attention_bias": True, "use_cache": True, "num_local_experts": 8,
        "mlp_layer_types": ["dense"], "chunk_size_feed_forward": 4, "attn_logit_softcapping": 50.0, "expert_layer_period": 2,
        "rope_local_base_freq": 1e4, "lm_head_bias": True, "num_nextn_predict_layers": 1, "query_pre_attn_scalar": 256,
        "quantization_config": {"kv_cache_scheme": None}, "head_dim_of_nothing": None, "first_k_dense_replace": 3,
    }  # fmt: skip
    assert cost(grouped(**harmless), context=9) == cost(grouped(), context=9)


# A server.


def test_sequences_fit_beside_the_weights():
    found = cost(grouped(), context=100, tensor_parallel=2)
    each = found.bytes_per_sequence_on_device
    assert found.sequences_that_fit(5 * each) == 5 and found.sequences_that_fit(5 * each - 1) == 4
    assert found.sequences_that_fit(5 * each, weights=4 * each) == 3, "two devices hold half the weights each"
    assert found.sequences_that_fit(5 * each, weights=10 * each) == 0
    with pytest.raises(ValueError, match="share of the weights"):
        found.sequences_that_fit(5 * each, weights=10 * each + 2)


def test_a_step_reads_the_cache_once():
    found = cost(grouped(), context=100, batch=7)
    assert found.seconds_per_step(1e6) == found.bytes_total / 1e6
    assert found.seconds_per_step(1e6, weights=5e6) == found.bytes_total / 1e6 + 5


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("deepseek-v4", {}, "no model is named 'deepseek-v4'"),
        ({}, {}, "the config must say num_hidden_layers; it says nothing"),
        (grouped() | {"num_hidden_layers": None}, {}, "must say num_hidden_layers"),
        (latent() | {"qk_rope_head_dim": None}, {}, "must say qk_rope_head_dim"),
        (grouped(layers=0), {}, "num_hidden_layers must be an integer of at least 1, got 0"),
        (grouped(8, 3), {}, "the 3 key/value heads must divide the 8 query heads"),
        ({**grouped(8), "hidden_size": 100, "head_dim": None}, {}, "the 8 heads must divide the hidden_size 100"),
        (grouped(sliding_window=-1), {}, "sliding_window must be an integer of at least 1, got -1"),
        (grouped(layer_types=["full_attention"]), {}, "must name the 3 layers' kinds, got 1"),
        (grouped(layer_types=["sliding_attention"] * 3), {}, "sliding layers need a sliding_window"),
        (grouped(layer_types=["linear_attention"] * 3), {}, "some layer must keep keys of tokens"),
        (grouped(layer_types=["dreaming"] * 3), {}, "layers must be .*, got dreaming"),
        (
            latent() | {"linear_attn_config": {"kda_layers": [1]}},
            {},
            "linear_attn_config must name each of the layers 1..3",
        ),
        (grouped(attn_layer_indices=[3]), {}, "attn_layer_indices must be among the layers 0..2, got \\[3"),
        (grouped(num_kv_shared_layers=3), {}, "num_kv_shared_layers must leave some of the 3 layers, got 3"),
        (grouped(use_cla=True), {}, "must say cla_share_factor"),
        (grouped(attn_config={"attn_type": "multiquery_attention"}), {}, "attn_type must be multihead_attention"),
        (grouped(use_bidirectional_attention="all"), {}, "must be causal"),
        (grouped(block_configs=[{"attention": {"sparsify": [1]}}] * 3), {}, "block_configs' attention .* got sparsify"),
        (
            grouped() | {"model_type": "of-its-own", "head_dim": None},
            {},
            "must say head_dim: what the class of 'of-its-own' supplies",
        ),
        (grouped(model_type="t5", is_encoder_decoder=True), {}, "must be a decoder alone"),
        ({"model_type": "bert"}, {}, "it keeps no cache"),
        (grouped(layer_types="full_attention"), {}, "layer_types must be a list, got 'full_attention'"),
        (grouped(block_configs=["x"] * 3), {}, "block_configs must hold a dict a layer"),
        (grouped(per_layer_config={"3": {}}), {}, "per_layer_config must name layers 0..2, got \\['3'"),
        (grouped(per_layer_config={"1": {"kv_groups": 2}}), {}, "must be understood; not so kv_groups: 2"),
        (grouped(num_kv_shared_layers="2"), {}, "num_kv_shared_layers must be an integer of at least 0, got '2'"),
        (grouped(attn_layer_period=0), {}, "attn_layer_period must be an integer of at least 1, got 0"),
        (grouped(layers=10**9), {}, "num_hidden_layers must be at most 10,000, got 1,000,000,000"),
        ({"model_type": ["llama"]}, {}, "model_type must be a string"),
        ({"model_type": "gemma3", "text_config": 4}, {}, "the config of the text model must be a dict, got 4"),
        (
            {"model_type": "deepseek_v32", "indexer_types": ["full"]},
            {},
            "indexers' kinds must be given for each layer, got 1",
        ),
        (grouped(), {"context": 0}, "context must be an integer of at least 1, got 0"),
        (grouped(), {"batch": 0}, "batch must be"),
        (grouped(), {"dtype": "int3"}, "dtype must be one of float32.*got 'int3'"),
        (grouped(), {"group": 0}, "group must be"),
        (grouped(), {"page_size": -1}, "page_size must be"),
        (grouped(8), {"tensor_parallel": 3}, "the 3 devices must share out the 8 query heads evenly"),
        (grouped(12, 6), {"tensor_parallel": 4}, "the 6 key/value heads must divide the 4 devices"),
    ],
)
@bad_input
def test_errors_name_the_rule_and_the_values(config, options, message):
    with pytest.raises(ValueError, match=message):
        cost(config, **{"context": 4} | options)


@bad_input
def test_a_bandwidth_is_positive():
    with pytest.raises(ValueError, match="bandwidth must be positive, in bytes a second, got 0"):
        cost(grouped(), context=1).seconds_per_step(0)
