"""The sequence-to-sequence models, their task and their training."""

import math
import random

import pytest
import torch

from attncourse.additive import AdditiveAttention
from attncourse.lessons.why_attention.influence import influence
from attncourse.models import dates
from attncourse.models.dates import (
    BEGIN,
    END,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    Example,
    draw_example,
    draw_examples,
    make_batch,
    read_target,
)
from attncourse.models.seq2seq import BahdanauDecoder, Encoder, FixedVectorDecoder, LuongDecoder, Seq2Seq
from attncourse.models.seq2seq_training import exact_matches, train_seq2seq, transcribe, wilson_interval
from attncourse.multiplicative import MultiplicativeAttention

WIDTH = 6
DECODERS = {
    "fixed": lambda: FixedVectorDecoder(WIDTH),
    "bahdanau": lambda: BahdanauDecoder(WIDTH, AdditiveAttention(WIDTH, WIDTH, hidden_dim=5, impl="reference")),
    "luong": lambda: LuongDecoder(WIDTH, MultiplicativeAttention(WIDTH, WIDTH)),
    "luong, input feeding": lambda: LuongDecoder(WIDTH, MultiplicativeAttention(WIDTH, WIDTH), input_feeding=True),
    "luong, local-m": lambda: LuongDecoder(
        WIDTH, MultiplicativeAttention(WIDTH, WIDTH, score="dot", locality="local_m", radius=1)
    ),
}
with_each_decoder = pytest.mark.parametrize("kind", DECODERS)


def build(kind: str) -> Seq2Seq:
    """A small model with parameters large enough that every input shows."""
    torch.manual_seed(5)
    model = Seq2Seq(11, 9, width=WIDTH, decoder=DECODERS[kind]()).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def draw_tokens(b: int, s: int, t: int):
    rng = torch.Generator().manual_seed(3)
    return torch.randint(1, 11, (b, s), generator=rng), torch.randint(1, 9, (b, t), generator=rng)


# The task.


def value_of(words: list[str]) -> int:
    """A number's value from its words, by adding and multiplying as they come."""
    small = {word: n for n, word in enumerate(dates.ONES)} | {w: 10 * n for n, w in enumerate(dates.TENS, start=2)}
    total = part = 0
    for word in words:
        if word == "hundred":
            part *= 100
        elif word == "thousand":
            total, part = (total + part) * 1000, 0
        elif word != "and":
            part += small[word]
    return total + part


def test_numbers_in_words_have_the_value_they_spell():
    for n in [*range(1200), *range(1200, 10**6, 7919), 999_999]:
        assert value_of(dates.number_in_words(n)) == n


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (307_201, "three hundred and seven thousand two hundred and one"),
        (5_003, "five thousand and three"),
        (40_100, "forty thousand one hundred"),
    ],
)
def test_numbers_read_as_english(n, words):
    assert " ".join(dates.number_in_words(n)) == words


@pytest.mark.parametrize(
    ("year", "words"),
    [
        (1900, "nineteen hundred"),
        (1907, "nineteen oh seven"),
        (1998, "nineteen ninety eight"),
        (2000, "two thousand"),
        (2005, "two thousand and five"),
        (2024, "twenty twenty four"),
    ],
)
def test_years_are_read_as_they_are_spoken(year, words):
    assert " ".join(dates.year_in_words(year)) == words


def test_days_have_ordinals():
    ordinals = [" ".join(dates.ordinal_in_words(day)) for day in range(1, 32)]
    assert [ordinals[i] for i in (0, 2, 19, 20, 29, 30)] == [
        "first",
        "third",
        "twentieth",
        "twenty first",
        "thirtieth",
        "thirty first",
    ]
    assert len(set(ordinals)) == 31


def test_one_date_has_four_forms():
    written = [" ".join(dates.date_in_words(1998, 3, 5, form)) for form in range(4)]
    assert written == [
        "the fifth of march nineteen ninety eight",
        "march the fifth nineteen ninety eight",
        "march 5 , 1 9 9 8",
        "5 mar. 1 9 9 8",
    ]


def test_a_source_has_one_answer():
    """No two dates or numbers are written alike, or the task could not be solved."""
    rng, answers = random.Random(0), {}
    for year in range(1900, 2100):
        for month, day, form in ((1, 1, 0), (5, 20, 1), (12, 28, 2), (rng.randrange(1, 13), rng.randrange(1, 29), 3)):
            words, iso = tuple(dates.date_in_words(year, month, day, form)), f"{year}-{month:02}-{day:02}"
            assert answers.setdefault(words, iso) == iso
    for _ in range(5000):
        example = draw_example(rng, items=rng.randrange(1, 4))
        assert answers.setdefault(example.source, example.target) == example.target


def test_a_held_out_set_is_held_out_and_drawing_repeats():
    test = draw_examples(200, most_items=2, seed=1)
    train = draw_examples(2000, most_items=2, seed=2, without=frozenset(e.target for e in test))
    assert not {e.target for e in test} & {e.target for e in train}
    assert not {e.source for e in test} & {e.source for e in train}
    assert test == draw_examples(200, most_items=2, seed=1) != draw_examples(200, most_items=2, seed=3)
    assert {e.target.count(";") for e in test} == {0, 1}


def test_batches_hold_what_examples_say():
    examples = draw_examples(40, most_items=3, seed=4)
    batch = make_batch(examples)
    for i, example in enumerate(examples):
        n = int(batch.lengths[i])
        assert tuple(SOURCE_VOCABULARY[j] for j in batch.source[i, :n]) == example.source
        assert not batch.source[i, n:].any()
        assert TARGET_VOCABULARY[batch.target[i, 0]] == BEGIN
        assert TARGET_VOCABULARY[batch.target[i, 1 + len(example.target)]] == END
        assert read_target(batch.target[i]) == example.target


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: dates.number_in_words(10**6), r"0\.\.999999, got 1000000"),
        (lambda: dates.ordinal_in_words(32), r"1\.\.31, got 32"),
        (lambda: dates.year_in_words(1899), r"1900\.\.2099, got 1899"),
        (lambda: draw_examples(0, most_items=2, seed=0), "at least 1, got 0, 2"),
        (lambda: make_batch([Example(("umpteen",), "0")]), r"does not know the words \['umpteen'\]"),
        (lambda: Encoder(5, 7), "width must be even.*got 7"),
        (
            lambda: build("fixed")(torch.ones(2, 3).long(), torch.tensor([3, 0]), torch.ones(2, 2).long()),
            r"needs a token, got lengths \[3, 0\]",
        ),
        (
            lambda: train_seq2seq(build("fixed"), draw_examples(3, most_items=1, seed=0), steps=1, batch_size=4),
            "a batch of 4 needs as many examples, got 3",
        ),
        (lambda: wilson_interval(3, 2), "count be positive, got 3, 2"),
    ],
)
def test_bad_input_is_named(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


# The models.


@with_each_decoder
def test_padding_changes_nothing(kind):
    """A source gives the same logits alone and beside a longer one, whatever stands in its padding."""
    model = build(kind)
    source, target = draw_tokens(3, 7, 5)
    lengths = torch.tensor([7, 4, 1])
    together = model(source, lengths, target)
    for row, n in enumerate(lengths.tolist()):
        alone = model(source[row : row + 1, :n], lengths[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


@with_each_decoder
def test_logits_see_no_later_target(kind):
    model = build(kind)
    source, target = draw_tokens(2, 5, 6)
    lengths = torch.tensor([5, 3])
    before = model(source, lengths, target)
    for position in range(6):
        changed = target.clone()
        changed[:, position] = changed[:, position] % 8 + 1
        moved = (model(source, lengths, changed) - before).abs().amax(dim=(0, 2)) > 0
        assert not moved[:position].any()
        assert moved[position]


@with_each_decoder
def test_greedy_decoding_is_teacher_forcing_on_its_own_words(kind):
    """Step by step, with the state carried along, comes out as in one go."""
    model = build(kind)
    source, _ = draw_tokens(4, 6, 1)
    lengths = torch.tensor([6, 2, 5, 1])
    tokens, alignments = model.decode_greedy(source, lengths, begin=1, steps=7)
    assert tokens.shape == (4, 7)
    logits = model(source, lengths, torch.cat([torch.full((4, 1), 1), tokens[:, :-1]], dim=1))
    assert torch.equal(logits.argmax(dim=-1), tokens)
    assert len(set(tokens.flatten().tolist())) > 1, "a constant answer would prove nothing"
    if kind == "fixed":
        assert alignments is None
    else:
        assert alignments.shape == (4, 7, 6)
        sums = alignments.sum(dim=-1)
        visible = sums > 0 if kind == "luong, local-m" else torch.ones_like(sums, dtype=torch.bool)
        torch.testing.assert_close(sums[visible], torch.ones_like(sums[visible]))
        assert not alignments[1, :, 2:].any()


def test_the_fixed_vector_decoder_never_reads_the_annotations():
    decoder = DECODERS["fixed"]().double()
    embedded, summary = torch.randn(2, 4, WIDTH).double(), torch.randn(2, WIDTH).double()
    memory = torch.full((2, 9, WIDTH), torch.nan, dtype=torch.float64)
    features, _, _ = decoder(embedded, decoder.start(summary), memory, torch.tensor([9, 3]))
    assert features.isfinite().all()
    other, _, _ = decoder(embedded, decoder.start(summary + 0.1), memory, torch.tensor([9, 3]))
    assert (features - other).abs().amin() > 0


def gru_step(weights: dict, x, h):
    """One step of a gated recurrent unit, as PyTorch's documentation writes it."""
    from_x = weights["weight_ih"] @ x + weights["bias_ih"]
    from_h = weights["weight_hh"] @ h + weights["bias_hh"]
    (rx, zx, nx), (rh, zh, nh) = from_x.chunk(3), from_h.chunk(3)
    z, n = torch.sigmoid(zx + zh), torch.tanh(nx + torch.sigmoid(rx + rh) * nh)
    return (1 - z) * n + z * h


def named(module) -> dict:
    return {name.removesuffix("_l0"): value.detach() for name, value in module.named_parameters()}


def test_bahdanau_decoder_is_the_papers_recurrence():
    """s_i = GRU([y; c_i], s_{i-1}) with c_i read by s_{i-1}, one sequence, by hand."""
    decoder = build("bahdanau").decoder
    y, memory, state = (torch.randn(n, WIDTH).double() for n in (3, 5, 1))
    got, _, alignments = decoder(y[None], state, memory[None], None)
    attention, cell, state = decoder.attention, named(decoder.cell), state[0]
    for i in range(3):
        hidden = [torch.tanh(attention.w_q @ state + attention.w_k @ h) for h in memory]
        grown = torch.stack([torch.exp(attention.w_score @ x) for x in hidden])
        weights = grown / grown.sum()
        context = sum(w * h for w, h in zip(weights, memory, strict=True))
        state = gru_step(cell, torch.cat([y[i], context]), state)
        out = decoder.read_out
        feature = torch.tanh(out.weight @ torch.cat([state, context, y[i]]) + out.bias)
        torch.testing.assert_close(alignments[0, i], weights)
        torch.testing.assert_close(got[0, i], feature)


@pytest.mark.parametrize("feeding", [False, True])
def test_luong_decoder_is_the_papers_recurrence(feeding):
    """h_i = GRU(y [; h~_{i-1}], h_{i-1}); h_i asks; h~_i = tanh(W [c; h]), by hand."""
    decoder = build("luong, input feeding" if feeding else "luong").decoder
    y, memory, state = (torch.randn(n, WIDTH).double() for n in (3, 5, 1))
    got, _, alignments = decoder(y[None], decoder.start(state), memory[None], None)
    state, fed, cell = state[0], torch.zeros(WIDTH).double(), named(decoder.gru)
    for i in range(3):
        state = gru_step(cell, torch.cat([y[i], fed]) if feeding else y[i], state)
        grown = torch.stack([torch.exp(state @ decoder.attention.weight @ h) for h in memory])
        weights = grown / grown.sum()
        context = sum(w * h for w, h in zip(weights, memory, strict=True))
        fed = torch.tanh(decoder.combine.weight @ torch.cat([context, state]) + decoder.combine.bias)
        torch.testing.assert_close(alignments[0, i], weights)
        torch.testing.assert_close(got[0, i], fed)


def test_fixed_vector_decoder_is_its_recurrence():
    """s_i = GRU([y; c], s_{i-1}), s_0 = c, by hand."""
    decoder = build("fixed").decoder
    y, c = torch.randn(3, WIDTH).double(), torch.randn(WIDTH).double()
    got, _, _ = decoder(y[None], decoder.start(c[None]), torch.zeros(1, 1, WIDTH).double(), None)
    state, cell = c, named(decoder.gru)
    for i in range(3):
        state = gru_step(cell, torch.cat([y[i], c]), state)
        feature = torch.tanh(decoder.read_out.weight @ torch.cat([state, c]) + decoder.read_out.bias)
        torch.testing.assert_close(got[0, i], feature)


def test_the_summary_is_the_last_state_of_each_direction():
    """Forwards after the last real token, backwards after the first, padding unseen."""
    encoder = Encoder(11, WIDTH).double()
    source, _ = draw_tokens(1, 6, 1)
    annotations, summary = encoder(encoder.embed(source), torch.tensor([4]))
    weights = named(encoder.gru)
    forwards, backwards = (torch.zeros(WIDTH // 2).double() for _ in range(2))
    ahead = {k: v for k, v in weights.items() if "reverse" not in k}
    behind = {k.replace("_l0_reverse", ""): v for k, v in weights.items() if "reverse" in k}
    for x in encoder.embed(source)[0, :4]:
        forwards = gru_step(ahead, x, forwards)
    for x in encoder.embed(source)[0, :4].flip(0):
        backwards = gru_step(behind, x, backwards)
    torch.testing.assert_close(summary[0], torch.cat([forwards, backwards]))
    torch.testing.assert_close(annotations[0, 3, : WIDTH // 2], forwards)
    assert not annotations[0, 4:].any()


@pytest.mark.parametrize("kind", ["fixed", "bahdanau"])
def test_influence_is_the_norm_of_each_block_of_the_jacobian(kind, monkeypatch):
    torch.manual_seed(0)
    model = (
        Seq2Seq(len(SOURCE_VOCABULARY), len(TARGET_VOCABULARY), width=WIDTH, decoder=DECODERS[kind]()).double().eval()
    )
    batch = make_batch([Example(("may", "5", ",", "1", "9", "0", "7"), "1907-05-05"), Example(("two",), "2")])
    got = influence(model, batch)
    assert got.shape == (2, 11, 7)
    for row in range(2):
        n, written = int(batch.lengths[row]), batch.target[row]
        embedded = model.encoder.embed(batch.source[row, :n]).detach()

        def logits(x, n=n, written=written):
            return model.from_embedded(x[None], torch.tensor([n]), written[None, :-1])[0]

        jacobian = torch.autograd.functional.jacobian(logits, embedded)  # (t, n, s, d)
        for i, token in enumerate(written[1:].tolist()):
            wanted = jacobian[i, token].norm(dim=-1) if token else torch.zeros(n).double()
            torch.testing.assert_close(got[row, i, :n], wanted)
        assert not got[row, :, n:].any()
    monkeypatch.setattr("attncourse.lessons.why_attention.influence.COPIES", 5)
    torch.testing.assert_close(influence(model, batch), got)


# The training.


def test_training_fits_and_exact_match_tells_right_from_wrong():
    examples = draw_examples(40, most_items=1, seed=6)
    torch.manual_seed(0)
    attention = MultiplicativeAttention(32, 32)
    model = Seq2Seq(len(SOURCE_VOCABULARY), len(TARGET_VOCABULARY), width=32, decoder=LuongDecoder(32, attention))
    seen = []
    losses = train_seq2seq(
        model, examples, steps=200, batch_size=8, learning_rate=1e-2, progress=lambda i, x: seen.append((i, x))
    )
    assert seen == list(enumerate(losses)) and len(losses) == 200
    assert not model.training
    assert abs(losses[0] - math.log(len(TARGET_VOCABULARY))) < 0.5 and losses[-1] < 0.1
    assert sum(exact_matches(model, examples)) >= 36
    written = transcribe(model, examples)
    for change, right in ((lambda w: w, True), (lambda w: w + "0", False), (lambda w: w[:-1], False)):
        judged = exact_matches(model, [Example(e.source, change(w)) for e, w in zip(examples, written, strict=True)])
        assert judged == [right] * 40


def test_training_repeats_by_its_seed():
    examples = draw_examples(64, most_items=2, seed=7)

    def losses(seed):
        torch.manual_seed(0)
        decoder = FixedVectorDecoder(WIDTH)
        model = Seq2Seq(len(SOURCE_VOCABULARY), len(TARGET_VOCABULARY), width=WIDTH, decoder=decoder)
        return train_seq2seq(model, examples, steps=6, batch_size=8, seed=seed)

    assert losses(0) == losses(0) != losses(1)


@pytest.mark.parametrize(("right", "count"), [(0, 7), (3, 7), (7, 7), (40, 61), (1, 1)])
def test_wilsons_interval_ends_where_the_score_test_rejects(right, count):
    """At each end p the deviation of the observed share is 1.96 standard errors of a binomial with that p."""
    low, high = wilson_interval(right, count)
    assert low <= right / count <= high
    for p in (low, high):
        if 1e-9 < p < 1 - 1e-9:
            assert abs(right / count - p) / math.sqrt(p * (1 - p) / count) == pytest.approx(1.96)
    assert 1e-9 < high - low < 1
