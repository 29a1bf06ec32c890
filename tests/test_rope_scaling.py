"""Scaled rotary frequencies: against transformers' own, and by what each rule promises."""

import math
from functools import partial

import pytest
import torch

from attncourse._shared.rope import RotaryEmbedding, rotary_angles
from attncourse._shared.rope_scaling import (
    linear_frequencies,
    llama3_frequencies,
    published_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)
from attncourse.testing import make_qkv

LLAMA_3_1 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
DEEPSEEK_V3 = dict(factor=40.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=4096)

CASES = {
    "linear": (linear_frequencies, 10_000.0, dict(factor=2.5)),
    "llama3": (llama3_frequencies, 500_000.0, LLAMA_3_1),
    "llama3 of a short training": (llama3_frequencies, 100.0, LLAMA_3_1 | {"original_max_position_embeddings": 64}),
    "yarn": (yarn_frequencies, 10_000.0, DEEPSEEK_V3),
    "yarn of Qwen2": (yarn_frequencies, 1e6, dict(factor=4.0, original_max_position_embeddings=32768)),
    "yarn of Kimi K2": (
        yarn_frequencies, 50_000.0, DEEPSEEK_V3 | {"factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0},
    ),
    "yarn without rounding": (
        yarn_frequencies, 10_000.0,
        dict(factor=16.0, beta_fast=20.0, beta_slow=2.0, original_max_position_embeddings=512, truncate=False),
    ),
    "yarn whose ramp is one step": (
        yarn_frequencies, 10_000.0, dict(factor=4.0, original_max_position_embeddings=6),
    ),
}  # fmt: skip


def theirs(name, width, base, parameters, **more):
    """Frequencies and factor on cos and sin, as transformers computes them."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=2 * width, num_attention_heads=2, max_position_embeddings=100_000,
        rope_parameters={"rope_type": name, "rope_theta": base, **parameters, **more},
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[name](config)


@pytest.mark.parametrize("width", [2, 10, 64, 128])
@pytest.mark.parametrize("case", CASES)
def test_the_frequencies_are_those_of_transformers_to_the_bit(case, width):
    rule, base, parameters = CASES[case]
    wanted, _ = theirs(case.split()[0], width, base, parameters)
    assert torch.equal(rule(width, base=base, **parameters), wanted)


@pytest.mark.parametrize("base", [100.0, 10_000.0, 500_000.0])
def test_unscaled_frequencies_are_those_of_transformers_to_the_bit(base):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=128, num_attention_heads=1, num_key_value_heads=1, rope_theta=base)
    wanted, _ = llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    got = published_frequencies(128, base=base)
    assert torch.equal(got, wanted)
    torch.testing.assert_close(got, rotary_angles(torch.tensor(1), 128, base=base), rtol=2e-7, atol=0)


@pytest.mark.parametrize("case", ["llama3", "yarn", "yarn of Qwen2"])
def test_fast_planes_stay_and_slow_ones_are_divided(case):
    rule, base, parameters = CASES[case]
    plain = published_frequencies(128, base=base, dtype=torch.float64)
    turns = parameters["original_max_position_embeddings"] * plain / (2 * math.pi)
    got = rule(128, base=base, **parameters, dtype=torch.float64)
    fast, slow = (4.0, 1.0) if case == "llama3" else (2 * 32.0, 0.5)  # yarn rounds its ends to whole planes
    assert (turns > fast).any() and (turns < slow).any()
    torch.testing.assert_close(got[turns > fast], plain[turns > fast], rtol=1e-15, atol=0)
    torch.testing.assert_close(got[turns < slow], plain[turns < slow] / parameters["factor"], rtol=1e-15, atol=0)
    assert (got.diff() < 0).all(), "the order of the planes stays"


@pytest.mark.parametrize("factor", [1.0, 4.0, 40.0])
@pytest.mark.parametrize(
    "mscale", [{}, {"mscale": 0.707, "mscale_all_dim": 0.707}, {"mscale": 1.0, "mscale_all_dim": 0.5}]
)
def test_the_magnitude_is_that_of_transformers(factor, mscale):
    _, wanted = theirs("yarn", 16, 10_000.0, DEEPSEEK_V3 | {"factor": factor}, **mscale)
    got = yarn_magnitude(factor, mscale.get("mscale", 1.0)) / yarn_magnitude(factor, mscale.get("mscale_all_dim", 0.0))
    assert got == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("interleaved", [False, True])
def test_linear_scaling_interpolates_positions(interleaved):
    x, _, _ = make_qkv(b=2, h=2, t=5, dk=6)
    scaled = RotaryEmbedding(6, interleaved=interleaved, frequencies=partial(linear_frequencies, factor=4.0))
    plain = RotaryEmbedding(6, interleaved=interleaved)
    torch.testing.assert_close(scaled(x, 4 * torch.arange(5)), plain(x, torch.arange(5)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_magnitude_lengthens(dtype):
    x, _, _ = make_qkv(b=1, h=2, t=7, dk=32, dtype=dtype)
    turned = RotaryEmbedding(32, magnitude=1.25)(x, torch.arange(7))
    assert turned.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(turned.double().norm(dim=-1), 1.25 * x.double().norm(dim=-1), rtol=eps, atol=0)


def test_a_scaled_rotary_embedding_survives_the_meta_device():
    """It holds no tensors, so a module built without memory and filled later turns as one built with it."""
    with torch.device("meta"):
        rope = RotaryEmbedding(16, frequencies=partial(llama3_frequencies, **LLAMA_3_1))
    x, _, _ = make_qkv(b=1, h=1, t=3, dk=16)
    again = RotaryEmbedding(16, frequencies=partial(llama3_frequencies, **LLAMA_3_1))
    assert torch.equal(rope.to_empty(device="cpu")(x, torch.arange(3)), again(x, torch.arange(3)))


def test_frequencies_are_made_once_for_a_dtype_and_on_the_cpu():
    asked = []

    def rule(width, **options):
        asked.append((options["dtype"], options["device"]))
        return published_frequencies(width, **options)

    x, _, _ = make_qkv(b=1, h=1, t=3, dk=16)
    rope = RotaryEmbedding(16, frequencies=rule)
    for dtype in (torch.float32, torch.float64, torch.float32, torch.bfloat16):
        rope(x.to(dtype), torch.arange(3))
    assert asked == [(torch.float32, "cpu"), (torch.float64, "cpu")]


@pytest.mark.gpu
def test_a_gpu_turns_by_the_same_frequencies():
    rope = RotaryEmbedding(128, frequencies=partial(llama3_frequencies, **LLAMA_3_1))
    at = torch.tensor([1, 5000, 100_000])
    assert torch.equal(rope.angles(at.cuda()).cpu(), rope.angles(at))


@pytest.mark.bad_input
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="factor of a rope scaling must be positive, got 0"):
        RotaryEmbedding(8, frequencies=partial(linear_frequencies, factor=0))
    with pytest.raises(ValueError, match="low_freq_factor must be below high_freq_factor, got 4.0 and 4.0"):
        llama3_frequencies(8, base=10.0, **LLAMA_3_1 | {"low_freq_factor": 4.0})
    with pytest.raises(ValueError, match="original_max_position_embeddings must be positive, got 0"):
        llama3_frequencies(8, base=10.0, **LLAMA_3_1 | {"original_max_position_embeddings": 0})
    with pytest.raises(ValueError, match="beta_slow must not be above beta_fast, got 33.0 and 32.0"):
        yarn_frequencies(8, base=10.0, **DEEPSEEK_V3 | {"beta_slow": 33.0})
