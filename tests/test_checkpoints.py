"""Layers of published checkpoints against transformers' own, with random weights: read at once, token by token, mixed."""

import copy

import pytest
import torch
from torch import nn

from attncourse.grouped_query import GroupedQueryAttention, grouped_from_multi_head
from attncourse.kv_cache import MODELS, ContiguousCache, RingCache, cost, token_nbytes
from attncourse.latent import LatentAttention
from attncourse.latent.convert import latent_from_grouped
from attncourse.models.checkpoints import (
    attention_from_config,
    attention_to_hugging_face,
    load_attention,
    rotary_from_config,
)

transformers = pytest.importorskip("transformers")

SIZES = dict(hidden_size=48, num_attention_heads=6, num_hidden_layers=3, max_position_embeddings=256, rope_theta=100.0)
LLAMA = dict(model_type="llama", num_key_value_heads=2, **SIZES)
QWEN2 = dict(model_type="qwen2", num_key_value_heads=2, use_sliding_window=False, **SIZES)
MISTRAL = dict(model_type="mistral", num_key_value_heads=2, sliding_window=None, **SIZES)
GEMMA2 = dict(
    model_type="gemma2", num_key_value_heads=2, head_dim=10, query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
    sliding_window=7, **SIZES,
)  # fmt: skip
DEEPSEEK = dict(num_key_value_heads=6, kv_lora_rank=20, qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=10, **SIZES)
LITE = dict(model_type="deepseek_v2", q_lora_rank=None, **DEEPSEEK)
V2 = dict(model_type="deepseek_v2", q_lora_rank=14, **DEEPSEEK)
V3 = dict(model_type="deepseek_v3", q_lora_rank=14, **DEEPSEEK)

# Over the 64 positions of training the first planes turn often and the last less than once.
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
YARN = dict(type="yarn", factor=4.0, beta_fast=6, beta_slow=1, original_max_position_embeddings=64)


def scaled(config, **rope):
    """The config with a rope_scaling of its own."""
    return config | {"rope_scaling": rope}


CASES = {
    "llama": LLAMA,
    "llama, as many key heads as heads": {name: n for name, n in LLAMA.items() if name != "num_key_value_heads"},
    "llama, one key head, wider": LLAMA | {"num_key_value_heads": 1, "head_dim": 12},
    "llama with biases": LLAMA | {"attention_bias": True},
    "llama, linear": scaled(LLAMA, type="linear", factor=4.0),
    "llama, llama3": scaled(LLAMA, **LLAMA3_ROPE),
    "llama, llama3, new names": LLAMA | {"rope_parameters": LLAMA3_ROPE | {"rope_theta": 50.0}},
    "llama, yarn": scaled(LLAMA, **YARN),
    "llama, yarn, its factor from the lengths": scaled(LLAMA, **YARN | {"factor": None}),
    "llama, yarn, its length from the model's": scaled(LLAMA, type="yarn", factor=4.0),
    "llama, yarn with its factor": scaled(LLAMA, **YARN, attention_factor=1.5),
    "qwen2": QWEN2,
    "qwen2, yarn": scaled(QWEN2, type="yarn", factor=4.0, original_max_position_embeddings=64),
    "qwen2, a window in later layers": QWEN2 | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen2, a window for later layers, unused": QWEN2 | {"sliding_window": 7, "max_window_layers": 1},
    "mistral": MISTRAL,
    "mistral with a window": MISTRAL | {"sliding_window": 7},
    "gemma2, a layer that sees all": GEMMA2,
    "gemma2, layers that are named": GEMMA2 | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "gemma2, no bound": GEMMA2 | {"attn_logit_softcapping": None},
    "deepseek_v2, lite": LITE,
    "deepseek_v2, lite, yarn": scaled(LITE, **YARN, mscale=0.707, mscale_all_dim=0.707),
    "deepseek_v2": V2,
    "deepseek_v2, yarn of two mscales": scaled(V2, **YARN, mscale=1.0, mscale_all_dim=0.5),
    "deepseek_v2, yarn without mscale": scaled(V2, **YARN),
    "deepseek_v3": V3,
    "deepseek_v3, yarn": scaled(V3, **YARN, mscale=1.0, mscale_all_dim=1.0),
    "deepseek_v3, half-split": V3 | {"rope_interleave": False},
    "deepseek_v3, lite": V3 | {"q_lora_rank": None},
}  # fmt: skip
SCALED = [name for name in CASES if any(word in name for word in ("linear", "llama3", "yarn"))]


class Oracle:
    """One attention of transformers with weights large enough to tell heads, places and scales apart."""

    def __init__(self, config, *, layer=1, dtype=torch.float32, seed=0):
        self.published = config
        self.config = transformers.AutoConfig.for_model(**copy.deepcopy(config))
        self.config._attn_implementation = "eager"
        family = getattr(transformers.models, config["model_type"])
        modeling = getattr(family, f"modeling_{config['model_type']}")
        name = config["model_type"].title().replace("_", "")  # DeepseekV2
        self.attention = getattr(modeling, f"{name}Attention")(self.config, layer)
        self.rotary = getattr(modeling, f"{name}RotaryEmbedding")(self.config)
        randomise(self.attention, seed)
        self.attention.to(dtype)

    @torch.no_grad()
    def __call__(self, x):
        """What it gives for x (1, n, d), read at once."""
        return self._read(x, 0, self._mask(x))

    @torch.no_grad()
    def decode(self, x):
        """What it gives for x (1, n, d), read token by token through its own cache."""
        cache, mask = transformers.DynamicCache(), self._mask(x)
        places = range(x.shape[1])
        return torch.cat([self._read(x[:, [i]], i, mask[:, :, [i], : i + 1], cache) for i in places], dim=1)

    def _read(self, x, start, mask, cache=None):
        at = torch.arange(start, start + x.shape[1])[None]
        return self.attention(
            hidden_states=x, position_embeddings=self.rotary(x, at), attention_mask=mask, cache=cache
        )[0]  # fmt: skip

    def _mask(self, x):
        from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

        each_layer = self.published["model_type"] in ("qwen2", "gemma2")
        slides = getattr(self.attention if each_layer else self.config, "sliding_window", None)
        make = create_sliding_window_causal_mask if slides else create_causal_mask
        at = torch.arange(x.shape[1])[None]
        return make(self.config, inputs_embeds=x, attention_mask=None, cache=None, position_ids=at)


def randomise(module, seed):
    """Weights of the order of 1 / sqrt(fan-in), norms between a half and one and a half, biases of the order of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 1.0, generator=generator)


def tokens(*shape, seed=1):
    """Tokens as a layer gets them, (b, n, d)."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loaded(oracle, *, layer=1, **options):
    """Our layer with the oracle's weights."""
    ours = attention_from_config(oracle.published, layer=layer, **options)
    return load_attention(ours, oracle.attention.state_dict())


def close(got, wanted):
    """Equal to 1e-5 of outputs of the order of 1."""
    assert 0.1 < wanted.std() < 10
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


CAPPED = [name for name, config in CASES.items() if config.get("attn_logit_softcapping")]
PREFILL = [(case, impl) for case in CASES for impl in ("reference", "blocked", "triton" if case in CAPPED else "torch")]


@pytest.mark.parametrize(("case", "impl"), PREFILL)
@torch.no_grad()
def test_prefill_gives_the_same(case, impl):
    oracle = Oracle(CASES[case])
    x = tokens(2, 83, 48)
    wanted = torch.cat([oracle(row[None]) for row in x])
    close(loaded(oracle, impl=impl)(x), wanted)


@pytest.mark.parametrize(("case", "impl"), [*((case, None) for case in CASES), *((case, "triton") for case in CAPPED)])
@torch.no_grad()
def test_decode_gives_the_same_as_their_decode(case, impl):
    oracle = Oracle(CASES[case])
    ours = loaded(oracle, impl=impl)
    cache = ContiguousCache(1, ours.cache_shape, capacity=83)
    x = tokens(1, 83, 48)
    close(torch.cat([ours(token, cache=cache) for token in x.split(1, dim=1)], dim=1), oracle.decode(x))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_prefill_in_pieces_and_decode_mixed_give_the_same(case):
    """Sequences of unequal lengths: each step, one reads a piece of its prompt while another decodes or rests."""
    oracle = Oracle(CASES[case])
    ours = loaded(oracle)
    x = tokens(3, 83, 48)
    cache = ContiguousCache(3, ours.cache_shape, capacity=83)
    counts = [(17, 5, 0), (1, 1, 40), (1, 0, 1), (30, 1, 41), (0, 13, 1), (1, 7, 0), (1, 1, 0), (32, 0, 0)]
    done, got = [0, 0, 0], [[], [], []]
    for step in counts:
        piece = torch.full((3, max(step), 48), torch.nan)
        for row, count in enumerate(step):
            piece[row, :count] = x[row, done[row] : done[row] + count]
        # Padding is undefined: what stands there may not reach any token.
        out = ours(piece.nan_to_num(nan=1e4), key_lengths=torch.tensor(step), cache=cache)
        for row, count in enumerate(step):
            got[row].append(out[row, :count])
            done[row] += count
    assert done == [83, 28, 83] == cache.lengths.tolist()
    for row, pieces in enumerate(got):
        close(torch.cat(pieces), oracle(x[row, None, : done[row]])[0])


FAR = dict(hidden_size=128, num_attention_heads=2, num_hidden_layers=2, max_position_embeddings=131072, rope_theta=5e5)


@pytest.mark.parametrize(
    "config",
    [
        LLAMA | FAR,
        scaled(LLAMA | FAR, **LLAMA3_ROPE | {"original_max_position_embeddings": 8192}),
        scaled(V3 | FAR | {"qk_rope_head_dim": 64, "num_key_value_heads": 2}, **YARN | {"factor": 40, "beta_fast": 32}, mscale=1.0, mscale_all_dim=1.0),
    ],
    ids=["llama", "llama3", "yarn"],
)  # fmt: skip
@torch.no_grad()
def test_thousands_of_tokens_from_the_start_they_are_still_the_same(config):
    """There a frequency that is off by its last bit already turns too far: errors of 1e-4."""
    oracle = Oracle(config)
    x = tokens(1, 2500, 128)
    close(loaded(oracle)(x), oracle(x))


@torch.no_grad()
def test_a_window_decodes_from_a_ring_that_holds_no_more():
    oracle = Oracle(CASES["mistral with a window"])
    ours = loaded(oracle)
    assert ours.window == 7
    x = tokens(1, 40, 48)
    cache = RingCache(1, ours.cache_shape, window=7, piece=11)
    got = torch.cat([ours(piece, cache=cache) for piece in x.split([11, 1, 1, 1, 9, 1, 11, 1, 1, 3], dim=1)], dim=1)
    close(got, oracle(x))


def test_gemma2s_layers_take_turns():
    assert [attention_from_config(GEMMA2, layer=i).window for i in range(3)] == [7, None, 7]


def test_qwen2s_windows_begin_at_a_layer():
    config = CASES["qwen2, a window in later layers"]
    assert [attention_from_config(config, layer=i).window for i in range(3)] == [None, 7, 7]
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert [attention_from_config(config | {"layer_types": kinds}, layer=i).window for i in range(3)] == [7, None, 7]


@pytest.mark.parametrize(
    ("case", "misread"),
    [
        ("llama", {"rope_theta": 101.0}),
        ("deepseek_v2", {"rope_interleave": False}),
        ("deepseek_v3", {"rope_interleave": False}),
        ("deepseek_v3, half-split", {"rope_interleave": True}),
        ("deepseek_v3, yarn", scaled({}, **YARN)),
        ("deepseek_v2, lite, yarn", scaled({}, **YARN, mscale=0.707, mscale_all_dim=0.0)),
        ("deepseek_v2, yarn of two mscales", scaled({}, **YARN, mscale=1.0, mscale_all_dim=1.0)),
        ("llama, yarn", scaled({}, **YARN, attention_factor=1.0)),
        ("mistral with a window", {"sliding_window": 8}),
        ("gemma2, a layer that sees all", {"attn_logit_softcapping": 2.2}),
        ("gemma2, a layer that sees all", {"attn_logit_softcapping": None}),
        ("gemma2, a layer that sees all", {"query_pre_attn_scalar": 25}),
        ("gemma2, layers that are named", {"layer_types": None}),
        *((case, {"rope_scaling": None, "rope_parameters": None}) for case in SCALED),
    ],
)
@torch.no_grad()
def test_the_comparison_sees_a_config_misread(case, misread):
    oracle = Oracle(CASES[case])
    ours = load_attention(attention_from_config(CASES[case] | misread, layer=1), oracle.attention.state_dict())
    x = tokens(1, 83, 48)
    assert (ours(x) - oracle(x)).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["llama, llama3", "qwen2", "gemma2, a layer that sees all", "deepseek_v3, yarn"])
@torch.no_grad()
def test_a_whole_model_with_our_layers_in_it_says_the_same(case):
    config = transformers.AutoConfig.for_model(
        **copy.deepcopy(CASES[case]),
        vocab_size=31,
        intermediate_size=20,
        **({"first_k_dense_replace": 3} if "kv_lora_rank" in CASES[case] else {}),
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(model, 3)
    ids = torch.randint(31, (1, 70), generator=torch.Generator().manual_seed(4))
    wanted, weights, caches = model(ids).logits, model.state_dict(), []
    for i, block in enumerate(model.model.layers):
        ours = load_attention(
            attention_from_config(CASES[case], layer=i), weights, prefix=f"model.layers.{i}.self_attn."
        )
        caches.append(ContiguousCache(1, ours.cache_shape, capacity=70))
        block.self_attn = InTheirPlace(ours, caches[-1])
    got = torch.cat(
        [model(piece, use_cache=False).logits for piece in ids.split([33, 1, 1, 20, *15 * [1]], dim=1)], dim=1
    )
    assert all(cache.lengths.item() == 70 for cache in caches)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


class InTheirPlace(nn.Module):
    """Our layer and its cache behind the call that transformers' blocks make."""

    def __init__(self, layer, cache):
        super().__init__()
        self.layer, self.cache = layer, cache

    def forward(self, hidden_states, **_):
        return self.layer(hidden_states, cache=self.cache), None


@pytest.mark.parametrize("case", ["llama", "llama with biases", "qwen2", "deepseek_v2, lite", "deepseek_v3"])
def test_writing_back_is_the_inverse(case):
    oracle = Oracle(CASES[case])
    state = oracle.attention.state_dict()
    back = attention_to_hugging_face(loaded(oracle), prefix="model.layers.1.self_attn.")
    assert set(back) == {f"model.layers.1.self_attn.{name}" for name in state}
    other = Oracle(CASES[case], seed=5).attention
    other.load_state_dict({name.rpartition("self_attn.")[2]: entry for name, entry in back.items()})
    assert all(torch.equal(entry, state[name]) for name, entry in other.state_dict().items())


@pytest.mark.parametrize("case", ["llama", "deepseek_v3, yarn"])
@torch.no_grad()
def test_bfloat16_stays_bfloat16_and_errs_no_more_than_theirs(case):
    oracle = Oracle(CASES[case], dtype=torch.bfloat16)
    ours = loaded(oracle)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    x = tokens(1, 83, 48).bfloat16()
    exact = copy.deepcopy(ours).double()(x.double())
    theirs = (oracle(x).double() - exact).square().mean().sqrt()
    assert (ours(x).double() - exact).square().mean().sqrt() <= 2 * theirs


@torch.no_grad()
def test_a_layer_of_a_checkpoint_converts_with_its_window_and_its_biases():
    oracle = Oracle(CASES["qwen2, a window in later layers"])
    state = oracle.attention.state_dict()
    for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
        state[name] = state[name][:8].repeat(2, *[1] * (state[name].ndim - 1))  # both heads alike
    oracle.attention.load_state_dict(state)
    x = tokens(1, 40, 48)
    close(grouped_from_multi_head(loaded(oracle), 1)(x), oracle(x))
    windowed = attention_from_config(CASES["mistral with a window"])
    windowed.rope = None
    with pytest.raises(ValueError, match="a layer with a window cannot be converted"):
        latent_from_grouped(windowed, 8)


def in_float8(weight):
    """Codes and factors of a weight, block by block of 128 rows and columns, as DeepSeek-V3 is released."""
    codes = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    factors = torch.empty(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))
    for i in range(factors.shape[0]):
        for j in range(factors.shape[1]):
            here = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            factors[i, j] = weight[here].abs().max() / 448
            codes[here] = (weight[here] / factors[i, j]).to(torch.float8_e4m3fn)
    return codes, factors


@torch.no_grad()
def test_float8_weights_are_multiplied_out_to_bfloat16():
    config = V3 | {"hidden_size": 300, "kv_lora_rank": 130}
    state = Oracle(config, dtype=torch.bfloat16).attention.state_dict()
    released = {}
    for name, entry in state.items():
        released[name] = entry
        if name.endswith("proj.weight"):
            scale = (
                torch.rand(len(entry), 1, generator=torch.Generator().manual_seed(2)) * 9
            )  # blocks unlike each other
            state[name] = entry.float() * scale
            released[name], released[f"{name}_scale_inv"] = in_float8(state[name])
    layer = load_attention(attention_from_config(config), released)
    for name, entry in attention_to_hugging_face(layer).items():
        assert entry.dtype == torch.bfloat16
        # Three bits behind the point: to a sixteenth, but for the smallest numbers.
        torch.testing.assert_close(
            entry.float(), state[name].float(), rtol=2**-4 + 2**-8, atol=2e-2 * float(state[name].std())
        )
    with pytest.raises(ValueError, match=r"weight \(14, 300\) needs factors \(1, 3\), got q_a_proj.*\(2, 3\)"):
        load_attention(layer, released | {"q_a_proj.weight_scale_inv": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="unexpected q_a_proj.weight_scale_inv"):
        load_attention(layer, released | {"q_a_proj.weight": released["q_a_proj.weight"].bfloat16()})


@pytest.mark.parametrize("case", CASES)
def test_their_config_object_says_the_same_as_the_published_numbers(case):
    """transformers spells configs anew (rope_parameters, layer_types): as a dict they are read alike."""
    ours = attention_from_config(CASES[case], layer=1)
    again = attention_from_config(Oracle(CASES[case]).config.to_dict(), layer=1)
    assert str(again) == str(ours)
    assert (again.scale, getattr(again, "window", None)) == (ours.scale, getattr(ours, "window", None))
    assert torch.equal(again.rope.angles(torch.arange(9)), ours.rope.angles(torch.arange(9)))
    assert (again.rope.magnitude, again.rope.interleaved) == (ours.rope.magnitude, ours.rope.interleaved)


@pytest.mark.parametrize("case", ["llama, llama3", "deepseek_v2, lite, yarn"])
@torch.no_grad()
def test_a_layer_on_the_meta_device_is_filled(case):
    oracle = Oracle(CASES[case])
    with torch.device("meta"):
        ours = attention_from_config(CASES[case], layer=1)
    assert all(p.is_meta for p in ours.parameters())
    load_attention(ours, oracle.attention.state_dict())
    x = tokens(1, 20, 48)
    close(ours(x), oracle(x))


def test_entries_are_copied_and_stay_trainable():
    oracle = Oracle(LLAMA)
    state = oracle.attention.state_dict()
    ours = load_attention(attention_from_config(LLAMA), state)
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())
    before = {name: entry.clone() for name, entry in state.items()}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], entry) for name, entry in state.items())


def test_what_the_first_checkpoints_of_llama_hold_besides_is_passed_over():
    state = Oracle(LLAMA).attention.state_dict() | {"rotary_emb.inv_freq": torch.ones(4)}
    load_attention(attention_from_config(LLAMA), state)


PUBLISHED = {
    "Llama-3-8B": (
        dict(model_type="llama", hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, rope_theta=500000.0),
        GroupedQueryAttention, 2 * 8 * 128,
    ),
    "Qwen2-7B": (
        dict(model_type="qwen2", hidden_size=3584, num_attention_heads=28, num_key_value_heads=4, rope_theta=1e6,
             use_sliding_window=False, sliding_window=131072, max_window_layers=28, num_hidden_layers=28),
        GroupedQueryAttention, 2 * 4 * 128,
    ),
    "DeepSeek-V2-Lite": (
        dict(model_type="deepseek_v2", hidden_size=2048, num_attention_heads=16, num_key_value_heads=16, q_lora_rank=None,
             kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rope_theta=10000,
             rope_scaling=dict(type="yarn", factor=40, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707,
                               original_max_position_embeddings=4096)),
        LatentAttention, 512 + 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_give_the_layer_and_what_it_caches(name):
    config, kind, numbers_a_token = PUBLISHED[name]
    with torch.device("meta"):
        layer = attention_from_config(config)
    assert type(layer) is kind
    shape = layer.cache_shape
    assert shape.n_kv_heads * sum(shape.widths) == numbers_a_token
    with torch.device("meta"):
        theirs = Oracle(config, layer=0).attention.state_dict()
    assert {n: e.shape for n, e in attention_to_hugging_face(layer).items()} == {n: e.shape for n, e in theirs.items()}


# What the calculator has no use for, since no cache hangs on it.
BESIDE_THE_CACHE = {"gemma2": dict(attn_logit_softcapping=50.0, query_pre_attn_scalar=256)}
# What adds something to the attention that the modules here have: fused or absolute in form, with sinks, sparse.
REFUSED = {
    "gpt2", "gpt2-xl", "falcon-7b", "falcon-40b", "gemma-3-12b", "gemma-3-27b", "gpt-oss-20b",
    "gpt-oss-120b", "deepseek-v3.2",
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_layers_cache_is_what_the_calculator_says(name):
    config = MODELS[name].config
    config = config | BESIDE_THE_CACHE.get(config.get("model_type"), {})
    if name in REFUSED:
        with pytest.raises(ValueError, match="model_type must be|is not known here"):
            attention_from_config(config)
        return
    predicted = cost(config, context=1, dtype="bfloat16").layers
    for i in (0, len(predicted) - 1):
        with torch.device("meta"):
            layer = attention_from_config(config, layer=i)
        assert layer.cache_shape == predicted[i].shape
        assert token_nbytes(layer.cache_shape, dtype=torch.bfloat16) == predicted[i].bytes_per_token
        assert getattr(layer, "window", None) == predicted[i].window


def test_deepseeks_softmax_scale_is_that_of_its_long_context():
    config, _, _ = PUBLISHED["DeepSeek-V2-Lite"]
    with torch.device("meta"):
        assert attention_from_config(config).scale == pytest.approx(0.1147, abs=1e-4)  # 192 ** -0.5 * 1.2608 ** 2
    assert rotary_from_config(config, width=64).magnitude == 1.0


@pytest.mark.bad_input
def test_a_state_dict_that_does_not_fit_is_told_apart_and_nothing_is_loaded():
    layer = attention_from_config(LLAMA)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    state = Oracle(LLAMA).attention.state_dict()
    wrong = state | {"v_proj.weight": torch.ones(8, 48), "q_norm.weight": torch.ones(8)}
    del wrong["o_proj.weight"]
    rule = (
        r"does not fit the layer: missing o_proj.weight; unexpected q_norm.weight; "
        r"misshapen v_proj.weight \(8, 48\) for \(16, 48\)"
    )
    with pytest.raises(ValueError, match=rule):
        load_attention(layer, wrong)
    with pytest.raises(
        ValueError, match=r"under 'model.layers.9.self_attn.' does not fit the layer: missing q_proj.weight"
    ):
        load_attention(layer, state, prefix="model.layers.9.self_attn")
    with pytest.raises(ValueError, match="share one floating dtype, got torch.bfloat16, torch.float32"):
        load_attention(layer, state | {"v_proj.weight": state["v_proj.weight"].bfloat16()})
    with pytest.raises(ValueError, match="share one floating dtype, got torch.int8"):
        load_attention(layer, {name: entry.to(torch.int8) for name, entry in state.items()})
    many = state | {f"experts.{i}.weight": torch.ones(1) for i in range(40)}
    with pytest.raises(ValueError, match=r"unexpected experts.0.weight, .*experts.9.weight and 30 more$"):
        load_attention(layer, many)
    with pytest.raises(ValueError, match="must be GroupedQueryAttention or LatentAttention, got Linear"):
        load_attention(nn.Linear(2, 2), state)
    assert all(torch.equal(before[name], p) for name, p in layer.named_parameters())


@pytest.mark.bad_input
def test_a_config_that_cannot_be_read_is_told():
    for config, rule in (
        (LLAMA | {"model_type": "gemma3"}, "model_type must be one of llama, .* got 'gemma3'"),
        (LLAMA | {"attn_logit_softcapping": 50.0}, "attention that attn_logit_softcapping change"),
        (LLAMA | {"model_type": "gemma2"}, "the config must say query_pre_attn_scalar"),
        (
            LLAMA | {"model_type": "gemma2", "query_pre_attn_scalar": 8},
            "the config must say attn_logit_softcapping, or",
        ),
        (V3 | {"index_topk": 2048}, "attention that index_topk change"),
        (V3 | {"attention_bias": True}, r"with biases \(attention_bias\) is not known"),
        (
            {"model_type": "llama", "hidden_size": 8},
            "the config must say num_attention_heads: it has model_type, hidden_size",
        ),
        ({n: v for n, v in V3.items() if n != "v_head_dim"}, "the config must say v_head_dim"),
        (scaled(LLAMA, type="dynamic", factor=2.0), "rope_type must be default, linear, llama3 or yarn, got 'dynamic'"),
        (scaled(LLAMA, rope_type="llama3", factor=2.0), "the config must say low_freq_factor, high_freq_factor"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "rotated in part"),
    ):
        with pytest.raises(ValueError, match=rule):
            attention_from_config(config)
    with pytest.raises(ValueError, match=r"bounds no scores: use impl='blocked', got softcap=2.0, impl='torch'"):
        attention_from_config(GEMMA2, impl="torch")
    with pytest.raises(ValueError, match=r"layer must be one of 0..2, got 3"):
        attention_from_config(LLAMA, layer=3)
