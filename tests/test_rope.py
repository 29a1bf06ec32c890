"""Rotary embedding by its defining property and against Llama's; learned positions by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse._shared.rope import (
    LearnedPositions,
    RotaryEmbedding,
    rotary_angles,
    rotate_half_split,
    rotate_interleaved,
)
from attncourse.testing import make_qkv


def turned_by_complex_numbers(x, position, base, *, interleaved):
    """Plane by plane as Python's complex numbers: multiply by e^(i m theta). Written apart from the package."""
    width = len(x)
    out = [0.0] * width
    for pair in range(width // 2):
        a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + width // 2)
        angle = position * base ** (-2 * pair / width)
        z = complex(x[a], x[b]) * complex(math.cos(angle), math.sin(angle))
        out[a], out[b] = z.real, z.imag
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [2, 6, 16])
def test_each_plane_is_turned_by_its_own_angle(interleaved, width):
    x, _, _ = make_qkv(b=1, h=1, t=3, dk=width)
    positions = torch.tensor([0, 5, 1000])
    got = RotaryEmbedding(width, base=100.0, interleaved=interleaved)(x, positions)
    for row, position in enumerate(positions.tolist()):
        wanted = turned_by_complex_numbers(x[0, 0, row].tolist(), position, 100.0, interleaved=interleaved)
        torch.testing.assert_close(got[0, 0, row], wanted)


@given(
    interleaved=st.booleans(), width=st.integers(1, 12).map(lambda n: 2 * n), m=st.integers(0, 500),
    n=st.integers(0, 500), shift=st.integers(-500, 500), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_a_score_depends_on_the_distance_alone(interleaved, width, m, n, shift, seed):
    q, k, _ = make_qkv(b=1, h=1, t=1, dk=width, seed=seed)
    rope = RotaryEmbedding(width, interleaved=interleaved)

    def score(at_q, at_k):
        return (rope(q, torch.tensor([at_q])) * rope(k, torch.tensor([at_k]))).sum()

    torch.testing.assert_close(score(m + shift, n + shift), score(m, n), rtol=0, atol=1e-10)
    torch.testing.assert_close(score(m, m), (q * k).sum(), rtol=0, atol=1e-10)


def test_a_score_does_depend_on_the_distance():
    q, k, _ = make_qkv(b=1, h=1, t=1, dk=8)
    rope = RotaryEmbedding(8)
    scores = torch.stack([(rope(q, torch.tensor([m])) * k).sum() for m in range(50)])
    assert scores.std() > 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_turning_keeps_the_norm(dtype):
    x, _, _ = make_qkv(b=2, h=3, t=7, dk=32, dtype=dtype)
    turned = RotaryEmbedding(32)(x, torch.arange(7) * 1001)
    assert turned.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(turned.double().norm(dim=-1), x.double().norm(dim=-1), rtol=eps, atol=0)


def test_the_two_layouts_are_one_up_to_the_order_of_entries():
    x, _, _ = make_qkv(dk=10)
    angles = rotary_angles(torch.arange(7), 10, dtype=torch.float64)
    order = torch.arange(10).reshape(2, 5).T.flatten()  # entry 2i of the interleaved is entry i of the half-split
    torch.testing.assert_close(rotate_interleaved(x[..., order], angles), rotate_half_split(x, angles)[..., order])
    assert (rotate_interleaved(x, angles) - rotate_half_split(x, angles)).abs().max() > 0.1


def test_positions_may_differ_from_sequence_to_sequence():
    x, _, _ = make_qkv(b=2, t=4, dk=6)
    rope, positions = RotaryEmbedding(6), torch.tensor([[0, 1, 2, 3], [7, 9, 8, 0]])
    both = rope(x, positions)
    for row in range(2):
        torch.testing.assert_close(both[row : row + 1], rope(x[row : row + 1], positions[row]))


def test_llamas_rotary_is_the_half_split_one():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=32, num_attention_heads=2, num_key_value_heads=2, rope_theta=500.0)
    q, k, _ = make_qkv(b=2, h=2, t=9, dk=16, dtype=torch.float32)
    positions = torch.arange(3, 12)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions.expand(2, -1))
    theirs = llama.apply_rotary_pos_emb(q, k, cos, sin)
    rope = RotaryEmbedding(16, base=config.rope_parameters["rope_theta"])
    for mine, wanted in zip((rope(q, positions), rope(k, positions)), theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-5)


def test_bfloat16_is_turned_by_angles_that_float32_holds():
    """Far out, an angle in bfloat16 is off by whole turns; only the result may be rounded."""
    x, _, _ = make_qkv(b=1, h=1, t=1, dk=4, dtype=torch.bfloat16)
    far = torch.tensor([4097])
    rope = RotaryEmbedding(4)
    torch.testing.assert_close(rope(x, far), rope(x.float(), far).bfloat16(), rtol=0, atol=0)


def test_learned_positions_are_rows_of_a_table():
    layer = LearnedPositions(6, 3).double()
    x = make_qkv(b=2, h=1, t=4, dk=3)[0][:, 0]
    torch.testing.assert_close(layer(x), x + layer.weight[:4])
    positions = torch.tensor([[5, 0, 0, 2], [1, 2, 3, 4]])
    wanted = torch.stack([x[i] + torch.stack([layer.weight[p] for p in row]) for i, row in enumerate(positions)])
    torch.testing.assert_close(layer(x, positions), wanted)


@pytest.mark.bad_input
def test_bad_input_is_named():
    x, _, _ = make_qkv(b=2, t=4, dk=6, dtype=torch.float32)
    with pytest.raises(ValueError, match="the width must be even, got 5"):
        RotaryEmbedding(5)
    with pytest.raises(ValueError, match="base of the rotary angles must be positive, got 0"):
        RotaryEmbedding(4, base=0)
    with pytest.raises(ValueError, match="turns width 8, got 6"):
        RotaryEmbedding(8)(x, torch.arange(4))
    with pytest.raises(ValueError, match=r"positions must have shape \(4,\) or \(2, 4\), got \(3,\)"):
        RotaryEmbedding(6)(x, torch.arange(3))
    with pytest.raises(ValueError, match="positions must be an integer tensor, got torch.float32"):
        RotaryEmbedding(6)(x, torch.arange(4.0))
    with pytest.raises(ValueError, match="there are 3 learned positions, got 4 tokens"):
        LearnedPositions(3, 6)(x[:, 0])
    with pytest.raises(ValueError, match="d_model must be an integer of at least 1, got 0"):
        LearnedPositions(3, 0)
