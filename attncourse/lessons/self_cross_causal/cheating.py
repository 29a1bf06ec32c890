"""Two decoders that differ in one argument: one is causal, the other sees the character that it should predict."""

from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.generate import generate
from attncourse.models.text import CHARACTERS, decode, draw_windows, encode, read_text
from attncourse.models.training import one_thread, train

LENGTH = 48  # predictions per row
CAUSAL = {"causal": True, "no mask": False}
MEASURES = ("training", "one call", "last place", "no future", "known words")


def build(*, causal: bool, seed: int = 0) -> DecoderLM:
    """Return an untrained decoder of two layers; without `causal` each token sees all of its row."""
    torch.manual_seed(seed)
    return DecoderLM(len(CHARACTERS), d_model=64, n_heads=2, context=LENGTH, causal=causal)


@one_thread()
def train_on_text(model: DecoderLM, *, steps: int = 300, seed: int = 0) -> list[float]:
    """Train on the documentation of Python, 24 rows per step, and return the loss of every step."""
    text = encode(read_text(held_out=False))

    def draw_loss(model, rng):
        return next_token_loss(model, draw_windows(text, count=24, length=LENGTH + 1, rng=rng))

    return train(model, draw_loss, steps=steps, seed=seed)


def held_out_rows(count: int) -> Int[Tensor, "count length"]:
    """Return rows of text that no model was trained on, the same ones at every call."""
    rng = torch.Generator().manual_seed(1)
    return draw_windows(encode(read_text(held_out=True)), count=count, length=LENGTH + 1, rng=rng)


@torch.no_grad()
def loss_in_one_call(model: DecoderLM, rows: Int[Tensor, "b n"]) -> Float[Tensor, " t"]:
    """Return the mean loss at each place of a row, with the whole row in sight of the model, as in training."""
    logits = model(rows[:, :-1])
    return cross_entropy(logits.mT, rows[:, 1:], reduction="none").mean(dim=0)


@torch.no_grad()
def loss_without_future(model: DecoderLM, rows: Int[Tensor, "b n"]) -> Float[Tensor, " t"]:
    """Return the mean loss at each place of a row, of a model that is given what stands before and nothing else."""
    prefixes = range(1, rows.shape[1])
    return torch.stack([cross_entropy(model(rows[:, :n])[:, -1], rows[:, n]) for n in prefixes])


def loss_by_frequency(rows: Int[Tensor, "b n"]) -> float:
    """Return the mean loss of a predictor that knows how often each character occurs in the training text."""
    counts = encode(read_text(held_out=False)).bincount(minlength=len(CHARACTERS)).float() + 1
    targets = rows[:, 1:].flatten()
    return cross_entropy(counts.log().expand(len(targets), -1), targets).item()


@one_thread()
def write(model: DecoderLM, rows: Int[Tensor, "b n"], *, steps: int = 80) -> list[str]:
    """Return what a model writes after the first 16 characters of each row, a character at a time."""
    rng = torch.Generator().manual_seed(2)
    return [decode(text) for text in generate(model, list(rows[:, :16]), steps=steps, temperature=0.7, rng=rng)]


def share_of_known_words(texts: list[str]) -> float:
    """Return which share of the words of three letters and more stands in the training text.

    The first and the last piece of each text are left out, since they may be cut.
    """
    known = set(read_text(held_out=False).split())
    words = [word for text in texts for word in text.split()[1:-1] if len(word) >= 3]
    found = Counter(word in known for word in words)
    return found[True] / max(len(words), 1)


@one_thread()
def measure(model: DecoderLM, losses: list[float]) -> dict[str, float]:
    """Return the measures of a trained model, `MEASURES`, from the losses of its training and from held-out text."""
    rows = held_out_rows(100)
    in_one_call = loss_in_one_call(model, rows)
    return {
        "training": sum(losses[-50:]) / 50,
        "one call": in_one_call.mean().item(),
        "last place": in_one_call[-1].item(),
        "no future": loss_without_future(model, rows).mean().item(),
        "known words": share_of_known_words(write(model, rows[:24])),
    }
