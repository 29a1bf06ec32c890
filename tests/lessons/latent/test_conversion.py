"""A whole decoder, converted to latent attention."""

import pytest
import torch

from attncourse._shared.rope import RotaryEmbedding
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import ContiguousCache, PagedCache, PagePool
from attncourse.latent import LatentAttention
from attncourse.lessons.latent.conversion import (
    attention_inputs,
    directions,
    keys_and_values,
    left_out,
    with_latent_attention,
)
from attncourse.models.decoder import DecoderLM


def model_of(*, n_kv_heads=4, positions="learned"):
    torch.manual_seed(0)
    return DecoderLM(
        11, d_model=16, n_heads=4, n_layers=2, context=20, positions=positions,
        attention=lambda: GroupedQueryAttention(16, 4, n_kv_heads=n_kv_heads, bias=False, causal=True),
    ).double()  # fmt: skip


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_model_of_full_rank_says_what_it_said(n_kv_heads, calibrated):
    model = model_of(n_kv_heads=n_kv_heads)
    tokens = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
    full = min(16, 8 * n_kv_heads)
    converted = with_latent_attention(model, full, tokens=tokens if calibrated else None)
    torch.testing.assert_close(converted(tokens), model(tokens), rtol=0, atol=1e-9)


def test_what_a_block_reads_is_its_input_after_the_norm():
    model = model_of()
    tokens = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
    first, second = attention_inputs(model, tokens)
    x = model.stack.places(model.embed(tokens))
    block = model.stack.blocks[0]
    torch.testing.assert_close(first, block.norm_self(x).flatten(0, 1))
    torch.testing.assert_close(second, model.stack.blocks[1].norm_self(block(x)).flatten(0, 1))


def test_calibration_keeps_the_keys_of_its_text_better():
    model = model_of()
    with torch.no_grad():
        model.embed.weight.mul_(torch.linspace(0.1, 20, 16))  # inputs that are far from alike in all directions
    tokens = torch.randint(11, (8, 20), generator=torch.Generator().manual_seed(1))
    missing = [left_out(model, with_latent_attention(model, 5, tokens=x), tokens=tokens) for x in (None, tokens)]
    assert 0 < missing[1] < 0.9 * missing[0] < 1


def test_what_is_left_out_of_keys_and_values_is_what_the_missing_directions_hold():
    model = model_of()
    tokens = torch.randint(11, (8, 20), generator=torch.Generator().manual_seed(1))
    squares = [torch.linalg.svdvals(x).square() for x in keys_and_values(model, tokens)]
    wanted = sum(float(x[5:].sum() / x.sum()) for x in squares) / 2
    found = left_out(model, with_latent_attention(model, 5, tokens=tokens), tokens=tokens)
    assert abs(found - wanted) < 1e-9
    assert left_out(model, with_latent_attention(model, 16), tokens=tokens) < 1e-20


def test_directions_are_counted_without_the_mean():
    x = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])  # squares 18 and 2
    moved = x + torch.tensor([0, 0, 100.0])
    assert [directions(moved, share=share) for share in (0.5, 0.89, 0.91)] == [1, 1, 2]


@pytest.mark.bad_input
def test_a_model_with_rotary_positions_is_refused():
    rotary = DecoderLM(
        11, d_model=16, n_heads=4, n_layers=1, context=20,
        attention=lambda: GroupedQueryAttention(16, 4, n_kv_heads=4, bias=False, causal=True, rope=RotaryEmbedding(4)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="rope cannot be converted"):
        with_latent_attention(rotary, 8)


@torch.no_grad()
def test_a_decoder_of_latent_layers_reads_on_from_its_caches():
    torch.manual_seed(0)
    model = DecoderLM(
        11, d_model=16, n_heads=4, n_layers=2, context=20,
        attention=lambda: LatentAttention(
            16, 4, kv_lora_rank=6, q_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=3
        ),
    ).double()  # fmt: skip
    tokens = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))
    shapes = [block.self_attention.cache_shape for block in model.stack.blocks]
    contiguous = [ContiguousCache(3, shape, capacity=12, dtype=torch.float64) for shape in shapes]
    paged = [PagedCache(3, PagePool(9, shape, page_size=5, dtype=torch.float64)) for shape in shapes]
    for caches in (contiguous, paged):
        read = [model(piece, caches=caches) for piece in tokens.split([7, 1, 1, 3], dim=1)]
        torch.testing.assert_close(torch.cat(read, dim=1), model(tokens), rtol=0, atol=1e-9)
    assert sum(cache.nbytes for cache in contiguous) == 2 * 3 * 12 * (6 + 4) * 8
