"""What the last chapter compares and explains with: a layer of each family, weights, rollout, gradients."""

import pytest
import torch
from torch.nn.functional import one_hot

from attncourse._shared.heads import merge_heads, split_heads
from attncourse.additive import additive_attention
from attncourse.choose import DESIGNS
from attncourse.lessons.which_attention.evidence import CLASSES, EvidenceReader, draw_evidence, evidence_loss
from attncourse.lessons.which_attention.explain import blanking, gradient_attribution, other_weights, rollout
from attncourse.lessons.which_attention.families import _from_scores, family_decoders, family_layers
from attncourse.lessons.which_attention.parts import answers_without, margin_by_part, named_parts
from attncourse.lessons.which_attention.pointer import PointerReader, pointer_loss, right_at_each_place
from attncourse.lessons.which_attention.recall import train_family
from attncourse.lessons.which_attention.study import measure
from attncourse.models.decoder import DecoderLM
from attncourse.models.training import train
from attncourse.multi_head import MultiHeadAttention
from attncourse.multiplicative import multiplicative_attention
from attncourse.sliding_window import local_mask
from attncourse.softmax_attention import softmax_attention

LAYERS = family_layers(12, 3, near=4, longest=20)


def test_families_have_the_names_of_designs():
    names = {design.name for design in DESIGNS}
    assert set(LAYERS) == names | {"self_attention", "causal_attention"}
    decoders = family_decoders(12, 3, length=5, window=3)
    assert set(decoders) == (names | {"causal_attention"}) - {"global_local", "block_sparse", "cross_attention"}


def seen_by_the_last(layer, t: int) -> torch.Tensor:
    """Which tokens change what the last one gets."""
    x = torch.randn(1, t, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, -1].square().sum(), x)
    return gradient[0].norm(dim=-1) > 0


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_reads_what_its_family_reads(name):
    torch.manual_seed(0)
    t = 17
    wanted = torch.ones(t, dtype=torch.bool)
    if name == "sliding_window":
        wanted[:-4] = False
    elif name == "block_sparse":
        distance = t - 1 - torch.arange(t)
        wanted = (distance <= 4) | (distance % 4 == 0)
    assert torch.equal(seen_by_the_last(LAYERS[name](), t), wanted)


@pytest.mark.parametrize("length", [1, 7, 40])
def test_decoders_keep_what_they_say(length):
    decoders = family_decoders(16, 4, length=length, window=8)
    per_token = {
        "causal_attention": 128,
        "multi_head": 128,
        "grouped_query": 32,
        "multi_query": 32,
        "latent": 40,
        "multiplicative": 128,
        "additive": 128,
    }
    for name, decoder in decoders.items():
        with torch.no_grad():
            out = decoder.step(torch.randn(1, 1, 16))
        assert out.shape == (1, 1, 16) and out.isfinite().all()
        assert decoder.bytes_per_token == per_token.get(name, 0)
        if name in per_token:
            assert decoder.held_bytes == length * decoder.bytes_per_token
    assert decoders["linear_attention"].held_bytes == 4 * 4 * 4 * (4 + 1)
    assert decoders["sliding_window"].held_bytes == 8 * 128


@pytest.mark.parametrize("name", ["additive", "linear_attention", "multi_head"])
def test_a_decoder_reads_what_it_has_read(name):
    """Other tokens behind it, another output; the same, the same."""
    x = torch.randn(1, 1, 16)
    outs = []
    for seed, length in ((0, 9), (0, 9), (1, 9), (0, 8)):
        torch.manual_seed(3)
        with torch.no_grad():
            outs.append(family_decoders(16, 4, length=length, window=8, seed=seed)[name].step(x))
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=0)
    assert not torch.allclose(outs[0], outs[2]) and not torch.allclose(outs[0], outs[3])


@torch.no_grad()
@pytest.mark.parametrize("name", ["additive", "multiplicative", "dot"])
def test_a_decoder_with_another_score_is_that_attention_over_the_past(name):
    rng, w, mix = torch.Generator().manual_seed(0), torch.randn(4), torch.randn(4, 4)
    layer, past, x = MultiHeadAttention(12, 3), torch.Generator().manual_seed(0), torch.randn(1, 1, 12)
    scores = {
        "additive": lambda q, k: torch.tanh(q + k) @ w,
        "multiplicative": lambda q, k: (q @ mix) @ k.mT,
        "dot": lambda q, k: q @ k.mT / 2,
    }
    attend = {
        "additive": lambda q, k, v: additive_attention(q, k, v, torch.eye(4), torch.eye(4), w),
        "multiplicative": lambda q, k, v: multiplicative_attention(q, k, v, mix),
        "dot": softmax_attention,
    }
    got = _from_scores(scores[name], layer, 7, rng).step(x)
    held = torch.randn(2, 1, 3, 7, 4, generator=past)
    new = (split_heads(project(x), 3) for project in (layer.w_k, layer.w_v))
    k, v = (torch.cat([old, one], dim=2) for old, one in zip(held, new, strict=True))
    q = split_heads(layer.w_q(x), 3)
    torch.testing.assert_close(got, layer.w_o(merge_heads(attend[name](q, k, v))))


def test_a_pointer_reader_reads_the_place_that_is_asked_for():
    torch.manual_seed(0)
    reader = PointerReader()
    train(reader, pointer_loss, steps=150, learning_rate=1e-2, progress=False)
    right = right_at_each_place(reader, length=10, rows=100)
    assert right.shape == (10,) and right.mean() > 0.8
    with pytest.raises(ValueError, match="64 places, got rows of 65"):
        right_at_each_place(reader, length=65)


def test_a_family_is_asked_near_far_and_for_more():
    shares, milliseconds = train_family("sliding_window", seed=0, steps=80)
    assert list(shares) == ["near", "far", "more"] and milliseconds > 0
    assert shares["near"] > shares["far"] + 0.3, "a window sees what is near"


def test_the_study_has_a_number_per_seed():
    found = measure(seeds=1, steps=1)
    assert set(found) == set(LAYERS)
    assert all(len(values) == 1 for columns in found.values() for values in columns.values())


@pytest.mark.parametrize(("s", "dv"), [(24, 6), (10, 2), (41, 5), (2, 1), (5, 8), (1, 3)])
def test_other_weights_mix_the_same(s, dv):
    rng = torch.Generator().manual_seed(s)
    weights = torch.softmax(torch.randn(s, generator=rng, dtype=torch.float64), dim=0)
    values = torch.randn(s, dv, generator=rng, dtype=torch.float64)
    other = other_weights(weights, values)
    torch.testing.assert_close(other @ values, weights @ values, rtol=0, atol=1e-12)
    torch.testing.assert_close(other.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (other >= 0).all() and int((other > 0).sum()) == min(s, dv + 1)
    if s > 2 * dv:
        assert other[weights.argmax()] == 0 and (other - weights).abs().sum() > 0.5


def test_values_that_depend_on_each_other_leave_more_room():
    values = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [1.0, 1.0]])
    weights = torch.full((4,), 0.25)
    other = other_weights(weights, values)
    assert int((other > 0).sum()) == 2
    torch.testing.assert_close(other @ values, weights @ values)
    with pytest.raises(ValueError, match="non-negative and sum to 1"):
        other_weights(torch.tensor([0.5, 0.6]), values[:2])


def test_rollout_multiplies_layers_with_half_of_each_kept():
    weights = torch.softmax(torch.randn(3, 2, 4, 5, 5, dtype=torch.float64), dim=-1)
    wanted = []
    for i in range(2):
        held = torch.eye(5, dtype=torch.float64)
        for layer in range(3):
            mean = sum(weights[layer, i, head] for head in range(4)) / 4
            held = (mean / 2 + torch.eye(5, dtype=torch.float64) / 2) @ held
        wanted.append(held)
    torch.testing.assert_close(rollout(weights), torch.stack(wanted))
    torch.testing.assert_close(rollout(weights).sum(dim=-1), torch.ones(2, 5, dtype=torch.float64))


def test_gradients_and_blanking_know_who_cannot_matter():
    torch.manual_seed(0)
    model, tokens = DecoderLM(11, d_model=8, n_heads=2, n_layers=2, context=9), torch.randint(11, (3, 9))
    mask = local_mask(9, 9, window=3)
    gradients = gradient_attribution(model, tokens, mask=mask)
    falls = blanking(model, tokens, blanks=torch.tensor([1, 2]), mask=mask)
    reached = torch.arange(9) >= 9 - 5  # two layers of 3
    for values in (gradients, falls):
        assert values.shape == (3, 9) and torch.equal(values[0].abs() > 1e-7, reached)
    one = gradient_attribution(model, tokens[1:2], mask=mask)
    torch.testing.assert_close(gradients[1:2], one)


def test_blanking_is_the_mean_fall_of_the_answers_log_probability():
    torch.manual_seed(0)
    model, tokens = DecoderLM(7, d_model=8, n_heads=2, n_layers=1, context=4), torch.randint(7, (1, 4))
    falls = blanking(model, tokens, blanks=torch.tensor([5, 6]))
    with torch.no_grad():
        whole = torch.log_softmax(model(tokens)[0, -1], dim=-1)
        for place in range(4):
            each = []
            for blank in (5, 6):
                changed = tokens.clone()
                changed[0, place] = blank
                each.append(whole.max() - torch.log_softmax(model(changed)[0, -1], dim=-1)[whole.argmax()])
            torch.testing.assert_close(falls[0, place], sum(each) / 2)


def test_evidence_is_counted_as_told():
    texts, classes = draw_evidence(50, times=5, against=2, length=20, rng=torch.Generator().manual_seed(0))
    counts = one_hot(texts, 20).sum(dim=1)[:, :CLASSES]
    assert (counts.argmax(dim=1) == classes).all()
    assert (counts.sort(dim=1).values == torch.tensor([0, 0, 2, 5])).all()
    for told in (dict(times=0), dict(times=2, against=2), dict(times=9, against=8, length=12)):
        with pytest.raises(ValueError, match="evidence must fit and decide"):
            draw_evidence(3, rng=torch.Generator(), **told)


@pytest.mark.parametrize("encoder", [False, True])
def test_a_reader_learns_and_takes_other_weights(encoder):
    torch.manual_seed(0)
    reader = EvidenceReader(encoder=encoder)
    losses = train(reader, evidence_loss(times=3), steps=60, learning_rate=2e-2, progress=False)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    texts, _ = draw_evidence(4, times=3, rng=torch.Generator().manual_seed(1))
    weights, values = reader.read(texts)
    assert weights.shape == (4, 24) and values.shape == (4, 24, 6)
    torch.testing.assert_close(reader(texts), reader(texts, weights))
    first = one_hot(torch.zeros(4, dtype=torch.long), 24).float()
    torch.testing.assert_close(reader(texts, first), reader.to_class(values[:, 0]))


def test_the_parts_of_a_margin_sum_to_it():
    torch.manual_seed(0)
    model, tokens = DecoderLM(11, d_model=8, n_heads=2, n_layers=2, context=9), torch.randint(11, (3, 9))
    for norm in (model.stack.norm, model.stack.blocks[0].norm_self):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    logits = model(tokens)[:, -1]
    parts = margin_by_part(model, tokens)
    assert list(parts) == ["embedding", "attention 1", "feed-forward 1", "attention 2", "feed-forward 2", "bias"]
    torch.testing.assert_close(sum(parts.values()), logits.max(dim=-1).values - logits.mean(dim=-1))


def test_a_part_that_is_taken_away_does_nothing():
    torch.manual_seed(0)
    model, tokens = DecoderLM(11, d_model=8, n_heads=2, n_layers=2, context=9), torch.randint(11, (40, 9))
    whole = model(tokens)[:, -1].argmax(dim=-1)
    for part in ("attention 1", "feed-forward 2"):
        torch.nn.init.zeros_(
            named_parts(model)[part].narrow.weight
            if "feed" in part
            else model.stack.blocks[0].self_attention.w_o.weight
        )
        assert torch.equal(answers_without(model, tokens, part), model(tokens)[:, -1].argmax(dim=-1)), "it is constant"
    for part in ("attention 2", "residual 1", "normalisation"):
        assert not torch.equal(answers_without(model, tokens, part), whole), part
    assert not any(module._forward_hooks for module in model.modules())
