"""The transformer models: what each of them may see, against PyTorch's and Hugging Face's stacks, and that they learn."""

import pytest
import torch
from torch import nn

from attncourse.lessons.real_systems.crossmodal import CrossReader, OneSequence, cut_patches
from attncourse.lessons.real_systems.encoder import NOT_ASKED, Classifier, Encoder, MaskedLM, hide_tokens, masked_loss
from attncourse.lessons.real_systems.encoder_decoder import EncoderDecoder
from attncourse.lessons.real_systems.recipes import picture_logits
from attncourse.lessons.real_systems.scenes import CELL, SIDE, WORDS, all_different, draw_questions, draw_scenes, glyph
from attncourse.models.blocks import Block, Stack, watch_weights
from attncourse.models.dates import SOURCE_VOCABULARY, TARGET_VOCABULARY, draw_examples
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.seq2seq_training import exact_matches, train_seq2seq
from attncourse.models.training import train
from attncourse.multi_head.convert import state_dict_from_torch

VOCABULARY = 11
SMALL = dict(d_model=12, n_heads=3, n_layers=2, context=9)
WIDTH = SMALL["d_model"]


def randomized(model):
    """In float64, with parameters large enough that every path shows."""
    rng = torch.Generator().manual_seed(5)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64) * 0.4)
    return model


def draw_tokens(*shape, seed=3, high=VOCABULARY):
    return torch.randint(1, high, shape, generator=torch.Generator().manual_seed(seed))


def depends_on(model_of_embedded, embedded):
    """Which outputs (t) depend on which inputs (s): the Jacobian of one sequence, reduced to a boolean (t, s)."""
    jacobian = torch.autograd.functional.jacobian(model_of_embedded, embedded)
    return jacobian.abs().sum(dim=(1, 3)) > 0


def decoder_dependence(model, tokens, **masking):
    def run(x):
        return model.to_vocabulary(model.stack(x[None], **masking))[0]

    return depends_on(run, model.embed(tokens).detach())


# Blocks against PyTorch's own, which share no code with ours.


def copy_linear_and_norms(ours, theirs, norms):
    ours.feed_forward.widen.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.narrow.load_state_dict(theirs.linear2.state_dict())
    for mine, its in zip((ours.norm_self, ours.norm_cross, ours.norm_feed), norms, strict=True):
        if its is not None:
            mine.load_state_dict(its.state_dict())


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_pytorchs_encoder_layer(causal):
    theirs = randomized(nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True))
    ours = Block(12, 3, causal=causal).double().eval()
    ours.self_attention.load_state_dict(state_dict_from_torch(theirs.self_attn.state_dict()))
    copy_linear_and_norms(ours, theirs, (theirs.norm1, None, theirs.norm2))
    x, lengths = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([7, 4, 1])
    padding = torch.arange(7) >= lengths[:, None]
    future = torch.ones(7, 7).triu(1).bool() if causal else None
    wanted = theirs(x, src_mask=future, src_key_padding_mask=padding)
    torch.testing.assert_close(ours(x, lengths=lengths)[~padding], wanted[~padding])


def test_a_block_with_cross_attention_is_pytorchs_decoder_layer():
    theirs = randomized(nn.TransformerDecoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True))
    ours = Block(12, 3, causal=True, d_context=12).double().eval()
    ours.self_attention.load_state_dict(state_dict_from_torch(theirs.self_attn.state_dict()))
    ours.cross_attention.load_state_dict(state_dict_from_torch(theirs.multihead_attn.state_dict()))
    copy_linear_and_norms(ours, theirs, (theirs.norm1, theirs.norm2, theirs.norm3))
    rng = torch.Generator().manual_seed(0)
    x, memory = (torch.randn(2, n, 12, generator=rng).double() for n in (5, 7))
    lengths = torch.tensor([7, 3])
    padding = torch.arange(7) >= lengths[:, None]
    wanted = theirs(x, memory, tgt_mask=torch.ones(5, 5).triu(1).bool(), memory_key_padding_mask=padding)
    memory[padding] = torch.nan
    torch.testing.assert_close(ours(x, memory, context_lengths=lengths), wanted)


def test_a_decoder_is_gpt2_with_its_weights():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=9, n_embd=12, n_layer=2, n_head=3, activation_function="gelu",
        tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    theirs = randomized(GPT2LMHeadModel(config))
    ours = DecoderLM(VOCABULARY, **SMALL, positions="learned").double().eval()
    ours.load_state_dict(from_gpt2(theirs))
    for t in (2, 5, 9):
        tokens = draw_tokens(3, t)
        with torch.no_grad():
            wanted = theirs(tokens, labels=tokens)
            torch.testing.assert_close(ours(tokens), wanted.logits)
            torch.testing.assert_close(next_token_loss(ours, tokens).float(), wanted.loss)  # theirs is float32


def from_gpt2(theirs):
    """Their projections are stored (in, out), and those of queries, keys and values side by side."""
    state, loaded = theirs.transformer.state_dict(), {}
    for i in range(2):
        for kind in ("weight", "bias"):
            block = f"stack.blocks.{i}."
            for mine, its in (("norm_self", "ln_1"), ("norm_feed", "ln_2")):
                loaded[f"{block}{mine}.{kind}"] = state[f"h.{i}.{its}.{kind}"]
            for mine, its in (
                ("self_attention.w_o", "attn.c_proj"),
                ("feed_forward.widen", "mlp.c_fc"),
                ("feed_forward.narrow", "mlp.c_proj"),
            ):
                loaded[f"{block}{mine}.{kind}"] = state[f"h.{i}.{its}.{kind}"].t()
            three = state[f"h.{i}.attn.c_attn.{kind}"].t().chunk(3)
            loaded |= {f"{block}self_attention.w_{x}.{kind}": y for x, y in zip("qkv", three, strict=True)}
    return loaded | {
        "embed.weight": state["wte.weight"],
        "stack.places.weight": state["wpe.weight"],
        "stack.norm.weight": state["ln_f.weight"],
        "stack.norm.bias": state["ln_f.bias"],
        "to_vocabulary.weight": theirs.lm_head.weight,
        "to_vocabulary.bias": torch.zeros(VOCABULARY),
    }


# Who sees whom, through whole stacks.


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("impl", ["reference", "torch", "blocked"])
def test_a_decoder_sees_the_past_and_all_of_it(positions, impl):
    model = randomized(DecoderLM(VOCABULARY, **SMALL, positions=positions, impl=impl))
    for t in (1, 2, 9):
        got = decoder_dependence(model, draw_tokens(t))
        assert torch.equal(got, torch.ones(t, t).tril().bool())


def test_without_its_mask_a_decoder_sees_what_it_should_predict():
    model = randomized(DecoderLM(VOCABULARY, **SMALL, causal=False))
    assert decoder_dependence(model, draw_tokens(7)).all()
    torch.testing.assert_close(
        model(draw_tokens(2, 7), mask=torch.ones(7, 7).tril().bool()),
        same_parameters(model, DecoderLM(VOCABULARY, **SMALL))(draw_tokens(2, 7)),
    )


def same_parameters(model, other):
    other = other.double().eval()
    other.load_state_dict(model.state_dict())
    return other


def test_a_broken_mask_leaks_exactly_where_it_is_broken():
    model = randomized(DecoderLM(VOCABULARY, **{**SMALL, "n_layers": 1}, causal=False))
    off_by_one = torch.ones(6, 6).tril(1).bool()
    assert torch.equal(decoder_dependence(model, draw_tokens(6), mask=off_by_one), off_by_one)
    # In a second layer the leak is two tokens deep.
    deep = randomized(DecoderLM(VOCABULARY, **SMALL, causal=False))
    assert torch.equal(decoder_dependence(deep, draw_tokens(6), mask=off_by_one), torch.ones(6, 6).tril(2).bool())


@pytest.mark.parametrize("causal", [False, True])
def test_an_encoder_sees_both_sides_unless_told(causal):
    model = randomized(Encoder(VOCABULARY, **SMALL, causal=causal))
    tokens = draw_tokens(6)
    got = depends_on(lambda x: model.stack(x[None])[0], model.embed(tokens).detach())
    assert torch.equal(got, torch.ones(6, 6).tril().bool() if causal else torch.ones(6, 6).bool())


def test_the_decoder_of_a_pair_sees_what_it_wrote_and_the_whole_source():
    model = randomized(EncoderDecoder(8, VOCABULARY, **SMALL))
    source, lengths, written = draw_tokens(1, 5, high=8), torch.tensor([4]), draw_tokens(1, 6)
    embedded = model.embed_target(written[0]).detach()
    memory = model.encode(source, lengths)

    def from_written(x):
        return model.to_vocabulary(model.decoder(x[None], memory, context_lengths=lengths))[0]

    def from_source(x):
        return model.decode(written, model.encoder(x[None], lengths=lengths), lengths)[0]

    assert torch.equal(depends_on(from_written, embedded), torch.ones(6, 6).tril().bool())
    got = depends_on(from_source, model.embed_source(source[0]).detach())
    assert torch.equal(got, (torch.arange(5) < 4).expand(6, 5))


def test_words_see_words_and_pieces_in_both_ways_and_a_causal_one_no_later_words():
    pieces, words = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double(), draw_tokens(1, 3, high=7)
    for kind in (CrossReader, OneSequence):
        for causal in (False, True):
            model = randomized(kind(7, width=5, pieces=4, words=3, causal=causal, d_model=12, n_heads=3))
            from_pieces = torch.autograd.functional.jacobian(lambda x, model=model: model(x[None], words)[0], pieces)
            assert (from_pieces.abs().sum(dim=1) > 0).all()
            moved = torch.stack([dependence_on_word(model, pieces, words, j) for j in range(3)], dim=1)
            assert torch.equal(moved, torch.ones(3, 3).tril().bool() if causal else torch.ones(3, 3).bool())


def dependence_on_word(model, pieces, words, j):
    """Which places (t) change when word j does."""
    other = words.clone()
    other[0, j] = (words[0, j] + 1) % 7
    with torch.no_grad():
        return (model(pieces[None], words) != model(pieces[None], other))[0].any(dim=-1)


def test_no_piece_reads_a_word_and_cross_weights_sum_to_one():
    pieces, words = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).double(), draw_tokens(2, 3, high=7)
    cross, one = (
        randomized(kind(7, width=5, pieces=4, words=3, d_model=12, n_heads=3)) for kind in (CrossReader, OneSequence)
    )
    for model in (cross, one):
        assert model.weights_on_pieces(pieces, words).shape == (2, 3, 3, 4)
    torch.testing.assert_close(cross.weights_on_pieces(pieces, words).sum(dim=-1), torch.ones(2, 3, 3).double())
    assert (one.weights_on_pieces(pieces, words).sum(dim=-1) < 1).all()
    assert not one.who_reads_whom(3)[:4, 4:].any() and one.who_reads_whom(3)[:, :4].all()


# Padding, positions, heads, weights.


def test_padding_changes_nothing():
    tokens, lengths = draw_tokens(3, 8), torch.tensor([8, 5, 1])
    exists = torch.arange(8) < lengths[:, None]
    other = torch.where(exists, tokens, draw_tokens(3, 8, seed=9))
    assert not torch.equal(tokens, other)
    encoder = Encoder(VOCABULARY, **SMALL)
    classifier = randomized(Classifier(encoder, WIDTH, 4))
    torch.testing.assert_close(encoder(tokens, lengths)[exists], encoder(other, lengths)[exists])
    torch.testing.assert_close(classifier(tokens, lengths), classifier(other, lengths))
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(classifier(tokens, lengths)[row], classifier(tokens[row : row + 1, :n])[0])
    pair = randomized(EncoderDecoder(VOCABULARY, VOCABULARY, **SMALL))
    written = draw_tokens(3, 4, seed=6)
    for row, n in enumerate(lengths.tolist()):
        alone = pair(tokens[row : row + 1, :n], lengths[row : row + 1], written[row : row + 1])
        torch.testing.assert_close(pair(other, lengths, written)[row], alone[0])


def test_a_mean_without_padding_divides_by_what_exists():
    classifier = randomized(Classifier(Encoder(VOCABULARY, **SMALL), WIDTH, 4))
    tokens = draw_tokens(1, 5)
    features = classifier.encoder(tokens[:, :3])
    got = classifier(tokens, torch.tensor([3]))
    torch.testing.assert_close(got, classifier.to_classes(features.sum(dim=1) / 3))


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_order_matters(positions):
    model = randomized(Encoder(VOCABULARY, **SMALL, positions=positions))
    tokens = draw_tokens(1, 6)
    swapped = tokens[:, [0, 2, 1, 3, 4, 5]]
    assert tokens[0, 1] != tokens[0, 2]
    moved = (model(tokens)[0, 5] - model(swapped)[0, 5]).abs().max()
    assert moved > 1e-3


def test_a_silenced_head_is_a_block_without_its_part():
    model = randomized(DecoderLM(VOCABULARY, **SMALL))
    tokens, head_mask = draw_tokens(2, 6), torch.ones(2, 3).double()
    head_mask[1, 2] = 0.0
    without = same_parameters(model, DecoderLM(VOCABULARY, **SMALL))
    with torch.no_grad():
        without.stack.blocks[1].self_attention.w_o.weight[:, 8:12] = 0.0
    torch.testing.assert_close(model(tokens, head_mask=head_mask), without(tokens))
    assert (model(tokens) - without(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("impl", ["torch", "blocked", "reference"])
def test_weights_are_those_that_the_model_used(impl):
    """Rows sum to 1, the future has none, the model is as before, and values mixed by them give the layer's output."""
    model = randomized(DecoderLM(VOCABULARY, **SMALL, impl=impl))
    tokens = draw_tokens(2, 6)
    before = model(tokens)
    weights = model.attention_weights(tokens)
    assert weights.shape == (2, 2, 3, 6, 6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 3, 6).double())
    assert not weights.triu(1).any()
    assert torch.equal(model(tokens), before)
    layer = model.stack.blocks[0].self_attention
    assert layer.impl == impl
    x = model.stack.blocks[0].norm_self(model.embed(tokens))
    values = layer.w_v(x).view(2, 6, 3, 4).transpose(1, 2)
    mixed = (weights[0] @ values).transpose(1, 2).reshape(2, 6, 12)
    torch.testing.assert_close(layer.w_o(mixed), layer(x))


def test_watching_ends_where_a_model_fails():
    model = randomized(DecoderLM(VOCABULARY, **SMALL))
    layer = model.stack.blocks[0].self_attention
    with pytest.raises(IndexError), watch_weights(layer):
        model(torch.full((1, 2), VOCABULARY))
    assert layer.impl == "torch" and not layer._forward_hooks and not layer._forward_pre_hooks


def test_cross_weights_read_the_source_alone():
    model = randomized(EncoderDecoder(8, VOCABULARY, **SMALL))
    source, lengths, written = draw_tokens(2, 5, high=8), torch.tensor([5, 2]), draw_tokens(2, 4)
    weights = model.cross_weights(source, lengths, written)
    assert weights.shape == (2, 2, 3, 4, 5)
    assert not weights[:, 1, :, :, 2:].any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 3, 4).double())


# The tasks.


def test_hidden_tokens_are_asked_for_and_only_they():
    tokens, rng = draw_tokens(50, 40), torch.Generator().manual_seed(0)
    shown, asked = hide_tokens(tokens, share=0.2, hidden=VOCABULARY, rng=rng)
    hidden = shown == VOCABULARY
    assert 0.15 < hidden.double().mean() < 0.25
    assert torch.equal(asked, torch.where(hidden, tokens, NOT_ASKED))
    assert torch.equal(shown[~hidden], tokens[~hidden])


def test_every_picture_holds_what_is_said_of_it():
    scenes = draw_scenes(60, most=4, seed=0)
    assert set(scenes.counts.tolist()) == {1, 2, 3, 4}
    for image, count, words, boxes in zip(scenes.images, scenes.counts, scenes.words, scenes.boxes, strict=True):
        count, redrawn = int(count), torch.zeros(SIDE, SIDE)
        assert not words[count:].any() and not boxes[count:].any()
        for sentence, box in zip(words[:count].tolist(), boxes[:count], strict=True):
            weight, digit, row, column = (WORDS[i] for i in sentence)
            ys, xs = box.nonzero().T
            assert (ys // CELL).unique().tolist() == [("top", "middle", "bottom").index(row)]
            assert (xs // CELL).unique().tolist() == [("left", "centre", "right").index(column)]
            names = "zero one two three four five six seven eight nine".split()
            pixels = glyph(names.index(digit), bold=weight == "bold")
            redrawn[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = pixels.float()
        assert torch.equal(image, redrawn)
        assert (
            len({tuple(s[2:]) for s in words[:count].tolist()}) == count == len({s[1] for s in words[:count].tolist()})
        )


def test_digits_look_different_and_bold_strokes_are_wider():
    thin, bold = ([glyph(digit, bold=b) for digit in range(10)] for b in (False, True))
    assert len({tuple(g.flatten().tolist()) for g in thin}) == 10
    for a, b in zip(thin, bold, strict=True):
        assert b.shape == (7, 6) and b.sum() > a.sum()
        assert (b[:, :5] >= a).all() and (b[:, 1:] >= a).all()


def test_questions_hide_what_they_ask_and_point_at_it():
    scenes = draw_scenes(40, most=3, seed=1)
    questions = draw_questions(scenes, count=300, rng=torch.Generator().manual_seed(0))
    assert not questions.words[:, :2].any() and questions.words[:, 2:].all()
    for words, answers, box in zip(questions.words, questions.answers, questions.boxes, strict=True):
        sentence = torch.cat([answers, words[2:]])
        at = (scenes.words == sentence).all(dim=-1) & (scenes.boxes == box).all(dim=(-2, -1))
        assert at.any()
    residue = torch.stack([(scenes.images - image).square().mean(dim=(1, 2)).min() for image in questions.images])
    assert (residue.sqrt() - 0.15).abs().max() < 0.03


def test_questions_that_are_shown_differ_in_digit_and_place():
    questions = draw_questions(draw_scenes(200, most=3, seed=1), count=100, rng=torch.Generator().manual_seed(0))
    chosen = all_different(questions, 6)
    digits, places = questions.answers[chosen, 1].tolist(), questions.words[chosen, 2:].tolist()
    assert len(set(digits)) == 6 == len(set(map(tuple, places)))
    assert chosen[0] == 0 and chosen == sorted(chosen)


def test_patches_are_squares_row_by_row():
    image = torch.arange(24.0).view(1, 4, 6)
    patches = cut_patches(image, 2)
    assert patches.shape == (1, 6, 4)
    assert patches[0, 1].tolist() == [2, 3, 8, 9] and patches[0, 3].tolist() == [12, 13, 18, 19]


# Each of them learns.


def overfit(model, loss, *, steps=150, learning_rate=1e-2):
    losses = train(model, lambda model, rng: loss(model), steps=steps, learning_rate=learning_rate)
    return losses[0], losses[-1]


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_decoder_learns_a_batch_by_heart(positions):
    torch.manual_seed(0)
    # First tokens differ, so that what follows is determined. They are not repeated: rotated keys over equal values mix
    # to that value, so a model with rotary positions cannot tell the first of equal tokens from the second.
    tokens = draw_tokens(4, 9, seed=1)
    tokens[:, 0] = torch.arange(4)
    tokens[:, 1] = torch.arange(4, 8)
    model = DecoderLM(VOCABULARY, **{**SMALL, "d_model": 24}, positions=positions)
    before, after = overfit(model, lambda m: next_token_loss(m, tokens))
    assert before > 2.0 and after < 0.02


def test_rotary_positions_do_not_count_equal_first_tokens_and_learned_ones_do():
    tokens = torch.tensor([[4, 4, 4, 7]])
    for positions, told_apart in (("rotary", False), ("learned", True)):
        logits = randomized(DecoderLM(VOCABULARY, **SMALL, positions=positions))(tokens)[0]
        assert ((logits[0] - logits[2]).abs().max() > 1e-9) == told_apart


def test_an_encoder_learns_a_batch_by_heart():
    torch.manual_seed(0)
    tokens, lengths, classes = draw_tokens(6, 7), torch.tensor([7, 6, 5, 4, 3, 2]), torch.tensor([0, 1, 2, 2, 1, 0])
    classifier = Classifier(Encoder(VOCABULARY, **SMALL), WIDTH, 3)
    _, after = overfit(classifier, lambda m: nn.functional.cross_entropy(m(tokens, lengths), classes), steps=80)
    assert after < 0.02
    filler = MaskedLM(Encoder(VOCABULARY + 1, **{**SMALL, "d_model": 24}), 24, VOCABULARY)

    def loss(model):
        return masked_loss(model, tokens, share=0.3, hidden=VOCABULARY, rng=torch.Generator().manual_seed(1))

    _, after = overfit(filler, loss)
    assert after < 0.02


def test_a_pair_learns_dates_with_the_chapters_own_loop():
    examples = draw_examples(12, most_items=1, seed=6)
    torch.manual_seed(0)
    model = EncoderDecoder(len(SOURCE_VOCABULARY), len(TARGET_VOCABULARY), d_model=32, n_heads=2, n_layers=1)
    train_seq2seq(model, examples, steps=200, batch_size=6, learning_rate=5e-3)
    assert all(exact_matches(model, examples))


@pytest.mark.parametrize("kind", [CrossReader, OneSequence])
def test_words_learn_a_batch_of_pictures_by_heart_and_need_the_picture(kind):
    torch.manual_seed(0)
    questions = draw_questions(draw_scenes(20, most=2, seed=0), count=16, rng=torch.Generator().manual_seed(0))
    model = kind(len(WORDS), width=64, pieces=9, words=4, d_model=32, n_heads=2)

    def loss(model, *, blind=False):
        logits = picture_logits(model, questions, blind=blind)
        return nn.functional.cross_entropy(logits.flatten(0, 1), questions.answers.flatten())

    _, after = overfit(model, loss)
    assert after < 0.02
    with torch.no_grad():
        assert loss(model, blind=True) > 1.0


# Errors.


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: Stack(12, 3, n_layers=1, context=4, positions="sine"), "one of rotary, learned, got 'sine'"),
        (lambda: Stack(12, 3, n_layers=0, context=4), "n_layers must be an integer of at least 1, got 0"),
        (lambda: DecoderLM(0), "vocabulary must be an integer of at least 1, got 0"),
        (lambda: DecoderLM(5, d_model=12, n_heads=5), "n_heads must divide d_model"),
        (lambda: Block(12, 3)(torch.ones(1, 2, 12), torch.ones(1, 2, 12)), "built with d_context, got a context"),
        (lambda: Block(12, 3, d_context=12)(torch.ones(1, 2, 12)), "built with d_context, got no context"),
        (
            lambda: DecoderLM(5, **SMALL)(torch.ones(1, 2).long(), head_mask=torch.ones(3, 3)),
            r"head_mask must be \(2, heads\), got \(3, 3\)",
        ),
        (
            lambda: Classifier(Encoder(5, **SMALL), WIDTH, 2)(torch.ones(2, 3).long(), torch.tensor([3, 0])),
            r"every sequence needs a token, got lengths \[3, 0\]",
        ),
        (
            lambda: hide_tokens(torch.ones(1, 2).long(), share=0.0, hidden=5, rng=torch.Generator()),
            r"share must lie in \(0, 1\], got 0.0",
        ),
        (lambda: glyph(10, bold=True), r"a digit must lie in 0\.\.9, got 10"),
        (lambda: draw_scenes(1, most=10, seed=0), r"most lie in 1\.\.9, the cells, got 1, 10"),
        (lambda: CrossReader(5, width=0, pieces=4, words=4), "width must be an integer of at least 1, got 0"),
        (lambda: OneSequence(5, width=3, pieces=0, words=4), "pieces must be an integer of at least 1, got 0"),
        (lambda: cut_patches(torch.ones(1, 6, 4), 3), "patches of 3 must tile the image, got 6 x 4"),
    ],
)
def test_bad_models_are_named(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()
