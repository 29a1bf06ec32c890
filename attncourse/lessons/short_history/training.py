"""Five scores in one model on one task, and two measures: is the answer right, and do the weights lie on its own item."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attncourse.additive import AdditiveAttention
from attncourse.models.dates import (
    BEGIN,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    Example,
    draw_examples,
    make_batch,
    read_target,
)
from attncourse.models.seq2seq import LuongDecoder, Seq2Seq
from attncourse.models.seq2seq_training import train_seq2seq
from attncourse.models.training import one_thread
from attncourse.multiplicative import MultiplicativeAttention

WIDTH, STEPS = 64, 320

# Additive and concat stand side by side: they are one function, so what parts their results is chance.
SCORES: dict[str, Callable[[], nn.Module]] = {
    "additive": lambda: AdditiveAttention(WIDTH, WIDTH, hidden_dim=WIDTH, impl="reference"),
    "concat": lambda: MultiplicativeAttention(WIDTH, WIDTH, score="concat"),
    "dot": lambda: MultiplicativeAttention(WIDTH, WIDTH, score="dot"),
    "general": lambda: MultiplicativeAttention(WIDTH, WIDTH, score="general"),
    "local-p": lambda: MultiplicativeAttention(WIDTH, WIDTH, locality="local_p", radius=6),
}


def date_lists() -> tuple[list[Example], list[Example]]:
    """Return 6000 examples to train on and 400 held-out ones, each of one or two dates or numbers."""
    held_out = draw_examples(400, most_items=2, seed=1)
    return draw_examples(6000, most_items=2, seed=2, without=frozenset(e.target for e in held_out)), held_out


def trained(score: str, examples: list[Example], *, seed: int, steps: int = STEPS) -> Seq2Seq:
    """Return Luong's model with one of the `SCORES`, trained; the seed decides its start and its batches."""
    torch.manual_seed(seed)
    decoder = LuongDecoder(WIDTH, SCORES[score]())
    model = Seq2Seq(len(SOURCE_VOCABULARY), len(TARGET_VOCABULARY), width=WIDTH, decoder=decoder)
    train_seq2seq(model, examples, steps=steps, learning_rate=8e-3, seed=seed)
    return model


@one_thread()
def write(model: Seq2Seq, examples: list[Example]) -> list[tuple[str, Float[Tensor, "t s"]]]:
    """Return what the model writes for each source, and its weights: a row per character, a column per source word."""
    batch, begin = make_batch(examples), TARGET_VOCABULARY.index(BEGIN)
    steps = batch.target.shape[1]
    tokens, weights = model.decode_greedy(batch.source, batch.lengths, begin=begin, steps=steps)
    answers = []
    for row, looked, example in zip(tokens, weights, examples, strict=True):
        text = read_target(row)
        answers.append((text, looked[: len(text), : len(example.source)]))
    return answers


def own_item(example: Example) -> Bool[Tensor, "t s"]:
    """Return for each character of the answer (row) which source words (columns) belong to its item; `;` to none."""
    rows = torch.tensor([character == ";" for character in example.target])
    columns = torch.tensor([word == ";" for word in example.source])
    same = rows.cumsum(0)[:, None] == columns.cumsum(0)
    return same & ~rows[:, None] & ~columns


def measure(model: Seq2Seq, examples: list[Example]) -> tuple[float, float]:
    """Return the share of sources that are written without a mistake, and the mean share of weight on the own item.

    The second is over the characters of right answers to sources of two items; in a source of one item all is its own.
    """
    right, shares = 0, [torch.empty(0)]
    for example, (text, weights) in zip(examples, write(model, examples), strict=True):
        right += text == example.target
        if text == example.target and ";" in text:
            own = own_item(example)
            share = (weights * own).sum(dim=-1) / weights.sum(dim=-1)
            shares.append(share[own.any(dim=-1)])
    return right / len(examples), torch.cat(shares).mean().item()


def is_short_pair(example: Example, most_words: int) -> bool:
    """Return whether a source holds a date and something else, in few enough words to be drawn."""
    return ";" in example.target and "-" in example.target and len(example.source) <= most_words


def longest_right(
    model: Seq2Seq, examples: list[Example], *, most_words: int = 14
) -> tuple[Example, str, Float[Tensor, "t s"]]:
    """Return the longest short pair that the model writes right, what it writes, and its weights."""
    answers = zip(examples, write(model, examples), strict=True)
    right = [(e, *answer) for e, answer in answers if answer[0] == e.target and is_short_pair(e, most_words)]
    return max(right, key=lambda answer: len(answer[0].source))
