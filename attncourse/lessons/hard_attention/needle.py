"""The needle: marked tokens of a sequence hold the answer, and a model that reads once, or few places, has to find them.

Several models, each with a start and data of its own, stand side by side on the first axis of every tensor and train in
one pass. Their losses are summed, so none meets another's gradient, and Adam moves every number by that number's own
gradients.
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
from attncourse.models.training import one_thread
from attncourse.softmax_attention import attention_scores, softmax_attention

SYMBOLS = 8
READINGS = ("soft", "straight_through", "score_function", "top_k", "noisy_top_k")


@dataclass(frozen=True)
class Needles:
    """Sequences with marked tokens; the answer is the set of symbols that stand there.

    Attributes:
        tokens: the one-hot vector of a token's symbol beside its mark, 1 or 0.
        places: of the marked tokens.
        answer: 1 for each symbol of the answer, 0 for the others.
    """

    tokens: Float[Tensor, "n s d"]
    places: Int[Tensor, "n marked"]
    answer: Float[Tensor, "n symbols"]


def draw_needles(n: int, *, length: int, generator: torch.Generator, marked: int = 1) -> Needles:
    """Return n sequences of random symbols in which so many places are marked; no two of these hold the same symbol."""
    symbols = torch.randint(SYMBOLS, (n, length), generator=generator)
    places = torch.rand(n, length, generator=generator).topk(marked).indices
    answer = torch.rand(n, SYMBOLS, generator=generator).topk(marked).indices
    symbols.scatter_(1, places, answer)
    marks = torch.zeros(n, length).scatter_(1, places, 1.0)
    tokens = torch.cat([one_hot(symbols, SYMBOLS), marks[..., None]], dim=-1)
    return Needles(tokens, places, torch.zeros(n, SYMBOLS).scatter_(1, answer, 1.0))


def top_k_weights(scores: Float[Tensor, "... s"], k: int, *, noise: Tensor | None = None) -> Float[Tensor, "... s"]:
    """Return softmax among the k largest scores, and 0 for the others; noise takes part in the choice alone.

    With Gumbel noise the k keys are drawn from the softmax without putting any back (Kool et al. 2019,
    https://arxiv.org/abs/1903.06059).
    """
    chosen = (scores if noise is None else scores + noise).topk(k).indices
    return torch.full_like(scores, -torch.inf).scatter(-1, chosen, scores.gather(-1, chosen)).softmax(dim=-1)


class NeedleReaders(nn.Module):
    """`models` readers with weights of their own: a learned query, projected keys and values, one read, one guess.

    Args:
        reading: one of `READINGS`. "straight_through" and "score_function" draw one key in training and read the best
            one in evaluation. "top_k" mixes the k best keys; "noisy_top_k" draws these k in training. It may be changed
            later: the weights are the same.
        width: of query, keys and values.
        temperature: of straight_through's soft half.
        k: how many keys the last two read.
    """

    def __init__(
        self, models: int, reading: str, *, generator: torch.Generator, width: int = 16, temperature: float = 1.0,
        k: int = 2,
    ):  # fmt: skip
        super().__init__()
        require(reading in READINGS, f"reading must be one of {', '.join(READINGS)}, got {reading!r}")
        self.reading, self.temperature, self.k = reading, temperature, k

        def drawn(*shape):
            return nn.Parameter(torch.randn(models, *shape, generator=generator) * shape[0] ** -0.5)

        self.query = nn.Parameter(torch.randn(models, width, generator=generator))
        self.w_k, self.w_v = drawn(SYMBOLS + 1, width), drawn(SYMBOLS + 1, width)
        self.w_out = drawn(width, SYMBOLS)

    def forward(
        self, tokens: Float[Tensor, "m n s d"], *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "m n symbols"], HardRead | None]:
        """Return each model's guess on its own n sequences, and what it read of one key alone: fields (m n, 1, 1).

        The second is None where more than one key was read.

        Raises:
            ValueError: a reading that draws, in training, without a generator.
        """
        n = tokens.shape[1]
        q = repeat(self.query, "m e -> (m n) 1 1 e", n=n)
        k, v = (
            rearrange(einsum(tokens, w, "m n s d, m d e -> m n s e"), "m n s e -> (m n) 1 s e")
            for w in (self.w_k, self.w_v)
        )
        noise = self._noise(len(q), k.shape[2], generator)
        one_key = self.reading in ("straight_through", "score_function")
        read = self._read_one(q, k, v, noise) if one_key else None
        out = read.out if read else self._mix(q, k, v, noise)
        return einsum(rearrange(out, "(m n) 1 1 e -> m n e", n=n), self.w_out, "m n e, m e f -> m n f"), read

    def _noise(self, rows: int, length: int, generator: torch.Generator | None) -> Tensor | None:
        if not self.training or self.reading in ("soft", "top_k"):
            return None
        require(generator is not None, f"reading={self.reading!r} samples in training: give it a generator")
        return gumbel_noise(rows, 1, 1, length, generator=generator)

    def _read_one(self, q, k, v, noise) -> HardRead:
        if self.reading == "straight_through" and noise is not None:
            return straight_through_attention(q, k, v, noise=noise, temperature=self.temperature)
        return hard_attention(q, k, v, noise=noise)

    def _mix(self, q, k, v, noise) -> Tensor:
        if self.reading == "soft":
            return softmax_attention(q, k, v)
        return top_k_weights(attention_scores(q, k), self.k, noise=noise) @ v


@torch.no_grad()
def needle_accuracy(readers: NeedleReaders, needles: Needles, *, reading: str = "") -> Float[Tensor, " m"]:
    """Return each model's share of right answers, all models on the same sequences, in evaluation.

    An answer is right if its symbols, and no other, have the largest logits.

    Args:
        reading: how the models read here (default: as they were trained).
    """
    training, trained = readers.training, readers.reading
    readers.reading = reading or trained
    logits, _ = readers.eval()(repeat(needles.tokens, "n s d -> m n s d", m=len(readers.query)))
    readers.train(training)
    readers.reading = trained
    guesses = logits.topk(needles.places.shape[1]).indices
    return needles.answer.expand_as(logits).gather(-1, guesses).all(dim=-1).float().mean(dim=-1)


@torch.no_grad()
def weight_on_needle(readers: NeedleReaders, needles: Needles) -> Float[Tensor, "m symbols"]:
    """Return the softmax weight that each model gives to the one marked place, its mean for each symbol standing there."""
    keys = einsum(needles.tokens, readers.w_k, "n s d, m d e -> m n s e")
    scores = einsum(keys, readers.query, "m n s e, m e -> m n s") * readers.query.shape[1] ** -0.5
    weight = scores.softmax(dim=-1)[:, torch.arange(len(needles.places)), needles.places[:, 0]]
    return weight @ needles.answer / needles.answer.sum(dim=0)


def steps_to(curve: Float[Tensor, "points m"], *, every: int, share: float = 0.95) -> list[int | None]:
    """Return after how many training steps each model first had this share of right answers; None where it never had."""
    reached = curve >= share
    first = reached.float().argmax(dim=0) * every
    return [int(step) if found else None for step, found in zip(first, reached.any(dim=0), strict=True)]


@one_thread()
def train_needle(
    reading: str,
    *,
    baseline: bool = False,
    marked: int = 1,
    k: int = 2,
    models: int = 5,
    length: int = 24,
    steps: int = 800,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    seed: int = 0,
    every: int = 10,
) -> tuple[NeedleReaders, Float[Tensor, "points m"]]:
    """Train by Adam on fresh sequences; return the readers, and each one's held-out accuracy after every `every` steps.

    Args:
        baseline: whether score_function's costs are lowered by a moving mean of past ones, one per model (Xu et al.
            2015, https://arxiv.org/abs/1502.03044, section 4.1).
        marked: tokens per sequence that hold the answer.
        k: keys that top_k and noisy_top_k read.
        batch_size: sequences per model and step.
    """
    require(
        not baseline or reading == "score_function", f"a baseline belongs to 'score_function', got reading={reading!r}"
    )
    rng = torch.Generator().manual_seed(seed)
    readers = NeedleReaders(models, reading, generator=rng, k=k)
    held_out = draw_needles(256, length=length, marked=marked, generator=rng)
    optimizer = torch.optim.Adam(readers.parameters(), lr=learning_rate)
    running, curve = torch.zeros(models, 1), [needle_accuracy(readers, held_out)]
    for step in range(1, steps + 1):
        needles = draw_needles(models * batch_size, length=length, marked=marked, generator=rng)
        logits, read = readers(rearrange(needles.tokens, "(m n) s d -> m n s d", m=models), generator=rng)
        cost = cross_entropy(logits.flatten(0, 1), needles.answer / marked, reduction="none").view(models, batch_size)
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
