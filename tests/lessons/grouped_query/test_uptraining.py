"""A model's conversion: every block, the original untouched, and no loss where heads are alike."""

import torch

from attncourse.grouped_query import GroupedQueryAttention
from attncourse.lessons.grouped_query.uptraining import with_grouped_heads
from attncourse.models.decoder import DecoderLM


def test_every_block_is_converted_and_the_model_stays_as_it_was():
    torch.manual_seed(0)
    model = DecoderLM(11, d_model=24, n_heads=6, n_layers=3, context=9).double()
    tokens = torch.randint(11, (2, 9))
    before = model(tokens)
    grouped = with_grouped_heads(model, 2)
    layers = [block.self_attention for block in grouped.stack.blocks]
    assert all(isinstance(layer, GroupedQueryAttention) and layer.n_kv_heads == 2 for layer in layers)
    torch.testing.assert_close(with_grouped_heads(model, 6)(tokens), before)
    with torch.no_grad():
        for parameter in grouped.parameters():
            parameter.zero_()
    torch.testing.assert_close(model(tokens), before)


def test_heads_that_are_alike_lose_nothing_and_random_ones_do():
    torch.manual_seed(0)
    model = DecoderLM(11, d_model=24, n_heads=6, n_layers=2, context=9).double()
    with torch.no_grad():
        for block in model.stack.blocks:
            for linear in (block.self_attention.w_k, block.self_attention.w_v):
                for parameter in (linear.weight, linear.bias):
                    heads = parameter.unflatten(0, (2, 3, 4))
                    heads.copy_(heads[:, :1].expand_as(heads).clone())
    tokens = torch.randint(11, (2, 9))
    wanted = model(tokens)
    for by in ("mean", "first"):
        torch.testing.assert_close(with_grouped_heads(model, 2, by=by)(tokens), wanted)
    drawn = with_grouped_heads(model, 2, by="random", rng=torch.Generator().manual_seed(1))(tokens)
    assert (drawn - wanted).abs().max() > 1e-3
