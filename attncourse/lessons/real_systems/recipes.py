"""How each small system of the chapter is trained and judged: what the study and the chapter share.

Each `train_...` returns a model; each `measure_...` returns numbers by name, on what was held out of training.
"""

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse.models import dates, text
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.seq2seq_training import exact_matches, train_seq2seq
from attncourse.models.training import mean_loss, one_thread, train

from . import melodies, scenes
from .crossmodal import CrossReader, OneSequence, cut_patches
from .encoder import Encoder, MaskedLM
from .encoder_decoder import EncoderDecoder
from .retrieval import (
    MIDDLE,
    Cloze,
    Passages,
    Reader,
    bm25_weights,
    count_words,
    draw_cloze,
    pointer_loss,
    read_answers,
    read_passages,
    retrieve,
)

WAYS = {"cross-attention": CrossReader, "one sequence": OneSequence}

# Encoder-only and decoder-only: a hidden character between five on either side.

SIDES = ("left side", "right side", "both sides")
AROUND = 5
VOCABULARY = len(text.CHARACTERS)
HIDDEN = VOCABULARY  # the token that stands for a hidden character


@functools.cache
def characters(*, held_out: bool) -> Int[Tensor, " n"]:
    """Return the documentation as characters: the topics to train on, or those held out."""
    return text.encode(text.read_text(held_out=held_out))


def draw_hidden(count: int, *, held_out: bool, rng: torch.Generator) -> tuple[Int[Tensor, "b 11"], Int[Tensor, " b"]]:
    """Draw windows of eleven characters whose middle one is hidden, and that character."""
    windows = text.draw_windows(characters(held_out=held_out), count=count, length=2 * AROUND + 1, rng=rng)
    answers = windows[:, AROUND].clone()
    windows[:, AROUND] = HIDDEN
    return windows, answers


def fill(model: MaskedLM, windows: Int[Tensor, "b 11"], side: str) -> Float[Tensor, "b characters"]:
    """Return logits of the hidden character; who knows the right side reads backwards."""
    return model(windows.flip(1) if side == "right side" else windows)[:, AROUND]


@one_thread()
def train_filler(side: str, *, seed: int = 0, steps: int = 150) -> MaskedLM:
    """Train a model to fill in characters from one of `SIDES`; with one side alone it is causal."""

    def draw_loss(model, rng):
        windows, answers = draw_hidden(128, held_out=False, rng=rng)
        return cross_entropy(fill(model, windows, side), answers)

    torch.manual_seed(seed)
    shape = dict(n_layers=1, context=2 * AROUND + 1, positions="learned", causal=side != "both sides")
    model = MaskedLM(Encoder(VOCABULARY + 1, **shape), 64, VOCABULARY)
    train(model, draw_loss, steps=steps, learning_rate=5e-3, seed=seed)
    return model


@torch.no_grad()
def measure_filler(model: MaskedLM, side: str, *, count: int = 3000) -> float:
    """Return which share of held-out characters is found at the first guess."""
    windows, answers = draw_hidden(count, held_out=True, rng=torch.Generator().manual_seed(1))
    return share(fill(model, windows, side).argmax(dim=-1) == answers)


def _next_character_loss(*, held_out: bool):
    """Return how 16 windows are drawn, and what a model loses on their next characters."""
    source = characters(held_out=held_out)
    return lambda model, rng: next_token_loss(model, text.draw_windows(source, count=16, length=65, rng=rng))


@one_thread()
def train_writer(*, seed: int = 0, steps: int = 300) -> DecoderLM:
    """Train a small GPT on the documentation."""
    torch.manual_seed(seed)
    model = DecoderLM(VOCABULARY, context=64)
    train(model, _next_character_loss(held_out=False), steps=steps, learning_rate=5e-3, seed=seed)
    return model


def measure_writer(model: DecoderLM) -> float:
    """Return the loss on held-out text in nats per character."""
    return mean_loss(model, _next_character_loss(held_out=True), draws=40)


def losses_of_tables() -> dict[str, float]:
    """Return what two tables lose on held-out text: how often each character occurs, and how often each follows each."""
    seen, asked = characters(held_out=False), characters(held_out=True)
    single = torch.bincount(seen, minlength=VOCABULARY) + 1.0
    pairs = torch.full((VOCABULARY, VOCABULARY), 0.1)
    pairs.index_put_((seen[:-1], seen[1:]), torch.tensor(1.0), accumulate=True)
    return {
        "table of characters": -(single / single.sum()).log()[asked].mean().item(),
        "table of pairs": -(pairs / pairs.sum(dim=1, keepdim=True)).log()[asked[:-1], asked[1:]].mean().item(),
    }


# Encoder-decoder: dates and numbers in words, to be written in digits.


@functools.cache
def dates_to_write() -> tuple[list[dates.Example], list[dates.Example]]:
    """Return examples to train on and, with other answers, to judge by."""
    test = dates.draw_examples(400, most_items=1, seed=1)
    return dates.draw_examples(8000, most_items=1, seed=2, without=frozenset(e.target for e in test)), test


def train_translator(*, seed: int = 0, steps: int = 600) -> EncoderDecoder:
    """Train an encoder-decoder of one block each."""
    torch.manual_seed(seed)
    sizes = len(dates.SOURCE_VOCABULARY), len(dates.TARGET_VOCABULARY)
    model = EncoderDecoder(*sizes, n_layers=1, positions="learned")
    train_seq2seq(model, dates_to_write()[0], steps=steps, batch_size=32, learning_rate=3e-3, seed=seed)
    return model


def is_month(word: str) -> bool:
    """Return whether a word of a date names its month, whole or shortened."""
    return word in dates.MONTHS or word.endswith(".")


def measure_translator(model: EncoderDecoder) -> dict[str, float]:
    """Return the share of answers that are right to the last digit, and how one head reads the month's name.

    The head is the one that gives it most weight while the month's two digits are written: that weight, how often no word
    gets more, and the name's share of the words.
    """
    test = dates_to_write()[1]
    matched = exact_matches(model, test)
    written = [e for e, ok in zip(test, matched, strict=True) if ok and "-" in e.target]
    weights, on_month, lengths = month_weights(model, written)
    given = (weights * on_month[:, None, None]).sum(dim=-1).mean(dim=(0, 2))
    best = weights[:, given.argmax()].argmax(dim=-1)
    return {
        "right": sum(matched) / len(test),
        "weight on the month": given.max().item(),
        "most on the month": share(on_month.gather(1, best)),
        "month among the words": on_month.sum(dim=1).div(lengths).mean().item(),
    }


def month_weights(model: EncoderDecoder, examples: list[dates.Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (b, h, 2, s) while the month's digits are written, which words name it (b, s), and lengths (b,)."""
    batch = dates.make_batch(examples)
    weights = model.cross_weights(batch.source, batch.lengths, batch.target[:, :-1])[0]
    names = [torch.tensor([is_month(word) for word in e.source]) for e in examples]
    # Characters 5 and 6 of 1998-03-05 are its month.
    return weights[:, :, 5:7], nn.utils.rnn.pad_sequence(names, batch_first=True), batch.lengths


# Pictures and sounds: words that read pieces.


@functools.cache
def picture_questions() -> tuple[scenes.Scenes, scenes.Questions]:
    """Return pictures to train on, and questions about others."""
    rng = torch.Generator().manual_seed(3)
    asked = scenes.draw_questions(scenes.draw_scenes(1000, most=4, seed=2), count=1000, rng=rng)
    return scenes.draw_scenes(4000, most=4, seed=1), asked


def picture_logits(
    model: nn.Module, questions: scenes.Questions, *, blind: bool = False
) -> Float[Tensor, "b 2 n_words"]:
    """Return logits of the two hidden words, from patches of the picture, or of an empty one."""
    patches = cut_patches(questions.images, scenes.CELL)
    return model(0 * patches if blind else patches, questions.words)[:, :2]


@one_thread()
def train_on_pictures(way: str, *, seed: int = 0, steps: int = 250) -> CrossReader | OneSequence:
    """Train a model of one of `WAYS` to say what stands where in a picture."""
    pictures, _ = picture_questions()

    def draw_loss(model, rng):
        questions = scenes.draw_questions(pictures, count=128, rng=rng)
        return cross_entropy(picture_logits(model, questions).flatten(0, 1), questions.answers.flatten())

    torch.manual_seed(seed)
    model = WAYS[way](len(scenes.WORDS), width=scenes.CELL**2, pieces=9, words=4)
    train(model, draw_loss, steps=steps, learning_rate=3e-3, seed=seed)
    return model


@torch.no_grad()
def measure_pictures(model: nn.Module) -> dict[str, float]:
    """Return the shares of digits named, with the picture and without, and where the hidden digit's word looks.

    The weights are the mean of the heads: the weight on all patches, the weight on the patch that is meant, and how often
    no patch gets more.
    """
    _, questions = picture_questions()
    right, blind = (
        share(picture_logits(model, questions, blind=x)[:, 1].argmax(dim=-1) == questions.answers[:, 1])
        for x in (False, True)
    )
    weights = digit_weights(model, questions)
    meant = cut_patches(questions.boxes.float(), scenes.CELL).amax(dim=-1)  # (b, 9): 1 on the patch of the digit
    return {
        "digits": right,
        "digits without the picture": blind,
        "weight on patches": weights.sum(dim=-1).mean().item(),
        "weight on the digit": (weights * meant).sum(dim=-1).mean().item(),
        "most on the digit": share(weights.argmax(dim=-1) == meant.argmax(dim=-1)),
    }


def digit_weights(model: nn.Module, questions: scenes.Questions) -> Float[Tensor, "b 9"]:
    """Return the weights of the hidden digit's word over the patches, mean of the heads."""
    return model.weights_on_pieces(cut_patches(questions.images, scenes.CELL), questions.words).mean(dim=1)[:, 1]


@functools.cache
def melodies_to_hear() -> tuple[melodies.Melodies, Tensor, melodies.Melodies, Tensor]:
    """Return melodies to train on and their spectrograms, and others to judge by."""
    heard, test = melodies.draw_melodies(2000, seed=1), melodies.draw_melodies(300, seed=2)
    return heard, melodies.spectrogram(heard.sounds), test, melodies.spectrogram(test.sounds)


@one_thread()
def train_on_melodies(way: str, *, seed: int = 0, steps: int = 150) -> CrossReader | OneSequence:
    """Train a model of one of `WAYS` to write down the notes that it hears."""
    heard, frames, _, _ = melodies_to_hear()

    def draw_loss(model, rng):
        i = torch.randint(len(frames), (48,), generator=rng)
        logits = model(frames[i], heard.letters[i, :-1])
        return cross_entropy(logits.flatten(0, 1), heard.letters[i, 1:].flatten(), ignore_index=melodies.PAD)

    torch.manual_seed(seed)
    sizes = dict(width=melodies.BINS, pieces=melodies.FRAMES, words=melodies.MOST + 2)
    model = WAYS[way](len(melodies.TOKENS), **sizes, causal=True)
    train(model, draw_loss, steps=steps, learning_rate=3e-3, seed=seed)
    return model


@torch.no_grad()
def write_down(model: nn.Module, frames: Float[Tensor, "b n width"]) -> Int[Tensor, "b t"]:
    """Return the likeliest letters, one after the other: BEGIN and what was written."""
    letters = torch.full((len(frames), 1), melodies.BEGIN)
    for _ in range(melodies.MOST + 1):
        letters = torch.cat([letters, model(frames, letters)[:, -1:].argmax(dim=-1)], dim=1)
    return letters


def measure_melodies(model: nn.Module) -> dict[str, float]:
    """Return the share of melodies that are right to the last letter, with the sound and without, and where letters look.

    The weights are the mean of the heads while the right letter is due: the weight on all frames, on those in which its
    note sounds, how often one of these gets the most, and their share of all frames.
    """
    _, _, test, frames = melodies_to_hear()
    written, unheard, wanted = (
        [melodies.as_letters(row[1:]) for row in rows]
        for rows in (write_down(model, frames), write_down(model, 0 * frames), test.letters)
    )
    weights = model.weights_on_pieces(frames, test.letters[:, :-1]).mean(dim=1)[:, : melodies.MOST]
    own = test.playing[:, None] == torch.arange(melodies.MOST)[:, None]  # (b, note, frame)
    is_note = own.any(dim=-1)
    return {
        "right": share(torch.tensor([x == y for x, y in zip(written, wanted, strict=True)])),
        "right without the sound": share(torch.tensor([x == y for x, y in zip(unheard, wanted, strict=True)])),
        "weight on frames": weights.sum(dim=-1)[is_note].mean().item(),
        "weight on the note": (weights * own).sum(dim=-1)[is_note].mean().item(),
        "most on the note": share(own.gather(2, weights.argmax(dim=-1, keepdim=True))[..., 0][is_note]),
        "note among the frames": own.double().mean(dim=-1)[is_note].mean().item(),
    }


def changed_letters(model: nn.Module) -> Float[Tensor, "letters notes"]:
    """Return how often each letter that is written changes (rows) when one note of the sound is replaced (columns)."""
    _, _, test, frames = melodies_to_hear()
    before = write_down(model, frames)[:, 1 : melodies.MOST + 1]
    is_note = test.letters[:, 1 : melodies.MOST + 1] > melodies.END
    columns = []
    for note in range(melodies.MOST):
        after = write_down(model, melodies.spectrogram(melodies.with_another_note(test, note)))
        changed = (after[:, 1 : melodies.MOST + 1] != before)[is_note[:, note]]
        there = is_note[is_note[:, note]]
        columns.append((changed & there).sum(dim=0) / there.sum(dim=0))
    return torch.stack(columns, dim=1)


# Retrieval: passages that a search found.

PASSAGES = 2  # of a question, while training


@functools.cache
def library() -> tuple[Passages, Tensor]:
    """Return the documentation in passages, and what each word of a question adds to the score of each of them."""
    passages = read_passages()
    return passages, bm25_weights(count_words(passages.tokens, tokens_in_all=passages.tokens_in_all))


@functools.cache
def questions(*, held_out: bool) -> tuple[Cloze, Tensor]:
    """Return questions about the library and the 16 best passages of each, best first."""
    passages, weights = library()
    rng = torch.Generator().manual_seed(int(held_out))
    cloze = draw_cloze(passages, count=600 if held_out else 4000, held_out=held_out, rng=rng)
    return cloze, retrieve(cloze.tokens, weights, top=16)


def read(model: Reader, cloze: Cloze, found: Int[Tensor, "b p"]) -> tuple[Float[Tensor, "b p s"], Int[Tensor, "b p s"]]:
    """Return the reader's weights on the words of the passages, and these words."""
    passages, _ = library()
    words = passages.tokens[found]
    return model(cloze.tokens, words, passages.lengths[found]), words


def _pick(rng: torch.Generator) -> tuple[Cloze, Tensor]:
    """Draw 32 questions to train on, and the best passages of each."""
    cloze, found = questions(held_out=False)
    i = torch.randint(len(found), (32,), generator=rng)
    return Cloze(cloze.tokens[i], cloze.answers[i], cloze.homes[i]), found[i, :PASSAGES]


@one_thread()
def train_open_book(*, seed: int = 0, steps: int = 220) -> Reader:
    """Train a reader of retrieved passages."""

    def draw_loss(model, rng):
        cloze, found = _pick(rng)
        return pointer_loss(*read(model, cloze, found), cloze.answers)

    torch.manual_seed(seed)
    model = Reader(library()[0].tokens_in_all)
    train(model, draw_loss, steps=steps, seed=seed)
    return model


@one_thread()
def train_closed_book(*, seed: int = 0, steps: int = 220) -> MaskedLM:
    """Train a model that names the hidden word without passages."""

    def draw_loss(model, rng):
        cloze, _ = _pick(rng)
        return cross_entropy(model(cloze.tokens)[:, MIDDLE], cloze.answers)

    torch.manual_seed(seed)
    size = library()[0].tokens_in_all
    model = MaskedLM(Encoder(size, n_layers=1, context=9), 64, size)
    train(model, draw_loss, steps=steps, seed=seed)
    return model


@torch.no_grad()
def measure_closed_book(model: MaskedLM) -> float:
    """Return the share of hidden words that it names."""
    cloze, _ = questions(held_out=True)
    return share(model(cloze.tokens)[:, MIDDLE].argmax(dim=-1) == cloze.answers)


@torch.no_grad()
def measure_open_book(model: Reader) -> dict[str, float]:
    """Return the shares of hidden words found, with the passages retrieved, with another question's, and of new words.

    New are words that were no answer in training. Besides: the weight on the passage that was asked about, where it was
    found.
    """
    cloze, found = questions(held_out=True)
    weights, words = read(model, cloze, found[:, :PASSAGES])
    right = read_answers(weights, words) == cloze.answers
    new = ~torch.isin(cloze.answers, questions(held_out=False)[0].answers)
    wrong = found[:, :PASSAGES].roll(1, dims=0)
    return {
        "retrieved": share(right),
        "another question's": share(read_answers(*read(model, cloze, wrong)) == cloze.answers),
        "new words": share(right[new]),
        "weight on the home": weights.sum(dim=-1)[found[:, :PASSAGES] == cloze.homes[:, None]].mean().item(),
    }


@torch.no_grad()
def measure_passages(model: Reader, counts: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, float]:
    """Return the share of hidden words found when so many passages are read at once, by their number."""
    cloze, found = questions(held_out=True)
    return {str(p): share(read_answers(*read(model, cloze, found[:, :p])) == cloze.answers) for p in counts}


def found_by_search(counts: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, float]:
    """Return how often the passage that was asked about is among so many best ones."""
    cloze, found = questions(held_out=True)
    home = found == cloze.homes[:, None]
    return {str(p): share(home[:, :p].any(dim=1)) for p in counts}


def share(right: Tensor) -> float:
    """Return which share of these is true."""
    return right.double().mean().item()
