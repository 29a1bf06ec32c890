"""The needle: one marked token of a sequence holds the answer, and a model that makes a single read has to find it.

Several models, one a seed, stand side by side on the first axis of every tensor and train in one pass. Their losses are
summed, so none meets another's gradient, and Adam moves every number by that number's own gradients.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from attncourse._shared.validate import require
from attncourse.hard_attention import (
    HardRead,
    gumbel_noise,
    hard_attention,
    score_function_loss,
    straight_through_attention,
)
from attncourse.models.seq2seq_training import one_thread
from attncourse.softmax_attention import softmax_attention

SYMBOLS = 8
READINGS = ("soft", "straight_through", "score_function")


@dataclass(frozen=True)
class Needles:
    """Needles are sequences with one marked token each; the answer is the symbol that stands there."""

    tokens: Float[Tensor, "n s d"]
    place: Int[Tensor, " n"]
    answer: Int[Tensor, " n"]


def draw_needles(n: int, *, length: int, generator: torch.Generator) -> Needles:
    """Draw n sequences: a token is the one-hot vector of its symbol beside its mark,
    1 in one place and 0 in the others.
    """
    symbols = torch.randint(SYMBOLS, (n, length), generator=generator)
    place = torch.randint(length, (n,), generator=generator)
    marks = one_hot(place, length)
    tokens = torch.cat([one_hot(symbols, SYMBOLS), marks[..., None]], dim=-1).float()
    return Needles(tokens, place, symbols[marks.bool()])


class NeedleReaders(nn.Module):
    """These are `models` readers with weights of their own:
    a learned query, projected keys and values, one read, one guess.

    Args:
        reading: "soft", "straight_through" or "score_function"; the last two sample in training, and read the best key
            in evaluation.
        width: of query, keys and values.
        temperature: of straight_through's soft half.
    """

    def __init__(
        self, models: int, reading: str, *, generator: torch.Generator, width: int = 16, temperature: float = 1.0
    ):
        super().__init__()
        require(reading in READINGS, f"reading must be one of {', '.join(READINGS)}, got {reading!r}")
        self.reading, self.temperature = reading, temperature

        def drawn(*shape):
            return nn.Parameter(torch.randn(models, *shape, generator=generator) * shape[0] ** -0.5)

        self.query = nn.Parameter(torch.randn(models, width, generator=generator))
        self.w_k, self.w_v = drawn(SYMBOLS + 1, width), drawn(SYMBOLS + 1, width)
        self.w_out = drawn(width, SYMBOLS)

    def forward(
        self, tokens: Float[Tensor, "m n s d"], *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "m n symbols"], HardRead | None]:
        """Return each model's guess on its own n sequences, and what its hard read was:
        fields (m n, 1, 1); None for soft.

        Raises:
            ValueError: a hard read in training without a generator.
        """
        n = tokens.shape[1]
        q = repeat(self.query, "m e -> (m n) 1 1 e", n=n)
        k, v = (
            rearrange(einsum(tokens, w, "m n s d, m d e -> m n s e"), "m n s e -> (m n) 1 s e")
            for w in (self.w_k, self.w_v)
        )
        read = None if self.reading == "soft" else self._read_hard(q, k, v, generator)
        out = softmax_attention(q, k, v) if read is None else read.out
        return einsum(rearrange(out, "(m n) 1 1 e -> m n e", n=n), self.w_out, "m n e, m e f -> m n f"), read

    def _read_hard(self, q, k, v, generator) -> HardRead:
        if not self.training:
            return hard_attention(q, k, v)
        require(generator is not None, f"reading={self.reading!r} samples in training: give it a generator")
        noise = gumbel_noise(len(q), 1, 1, k.shape[2], generator=generator)
        if self.reading == "straight_through":
            return straight_through_attention(q, k, v, noise=noise, temperature=self.temperature)
        return hard_attention(q, k, v, noise=noise)


@torch.no_grad()
def needle_accuracy(readers: NeedleReaders, needles: Needles) -> Float[Tensor, " m"]:
    """Return each model's share of right answers, all models on the same sequences, in evaluation."""
    training = readers.training
    logits, _ = readers.eval()(repeat(needles.tokens, "n s d -> m n s d", m=len(readers.query)))
    readers.train(training)
    return (logits.argmax(dim=-1) == needles.answer).float().mean(dim=-1)


@one_thread()
def train_needle(
    reading: str,
    *,
    baseline: bool = False,
    models: int = 5,
    length: int = 24,
    steps: int = 800,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    seed: int = 0,
    every: int = 10,
) -> tuple[NeedleReaders, Float[Tensor, "points m"]]:
    """Train by Adam on fresh sequences; return the readers,
    and each model's held-out accuracy after every `every` steps.

    Args:
        baseline: whether score_function's costs are lowered by a moving mean of past ones, one a model (Xu et al. 2015,
            https://arxiv.org/abs/1502.03044, section 4.1).
        batch_size: sequences a model and a step.
    """
    require(
        not baseline or reading == "score_function", f"a baseline belongs to 'score_function', got reading={reading!r}"
    )
    rng = torch.Generator().manual_seed(seed)
    readers = NeedleReaders(models, reading, generator=rng)
    held_out = draw_needles(256, length=length, generator=rng)
    optimizer = torch.optim.Adam(readers.parameters(), lr=learning_rate)
    running, curve = torch.zeros(models, 1), [needle_accuracy(readers, held_out)]
    for step in range(1, steps + 1):
        needles = draw_needles(models * batch_size, length=length, generator=rng)
        logits, read = readers(rearrange(needles.tokens, "(m n) s d -> m n s d", m=models), generator=rng)
        cost = cross_entropy(logits.flatten(0, 1), needles.answer, reduction="none").view(models, batch_size)
        if reading == "score_function":
            lowered_by = running if baseline else 0.0
            loss = score_function_loss(cost, read.log_prob.view_as(cost), baseline=lowered_by)
            running = 0.9 * running + 0.1 * cost.detach().mean(dim=1, keepdim=True)
        else:
            loss = cost.mean()
        optimizer.zero_grad()
        (models * loss).backward()  # the sum over models of each one's mean
        optimizer.step()
        if step % every == 0:
            curve.append(needle_accuracy(readers, held_out))
    return readers.eval(), torch.stack(curve)
