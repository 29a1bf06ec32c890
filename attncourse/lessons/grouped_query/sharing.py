"""Small models on text that differ in how many query heads they have and in how many heads of keys and values."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attncourse.grouped_query import GroupedQueryAttention
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import DrawLoss, mean_loss, one_thread, train
from attncourse.positions import RotaryEmbedding

WIDTH, HEAD_DIM, LENGTH, STEPS = 64, 4, 64, 180


@dataclass(frozen=True)
class Design:
    """A design is the heads of a layer, and how wide its feed-forward network is between its two maps."""

    heads: int
    kv_heads: int
    feed: int = 4 * WIDTH

    @property
    def numbers_kept(self) -> int:
        """Return the numbers that a token leaves in the cache: a key and a value per key/value head."""
        return 2 * self.kv_heads * HEAD_DIM


DESIGNS = {
    "h 8, g 8": Design(8, 8),
    "h 8, g 4": Design(8, 4),
    "h 8, g 2": Design(8, 2),
    "h 8, g 1": Design(8, 1),
    "h 8, g 1, wider": Design(8, 1, feed=4 * WIDTH + 28),  # as many parameters as with g = 8, to 0.1 %
    "h 2, g 2": Design(2, 2),
    "h 1, g 1": Design(1, 1),
}


def build(design: Design) -> DecoderLM:
    """Return a model of one block with this design, with random weights."""

    def attention() -> nn.Module:
        return GroupedQueryAttention(
            WIDTH,
            design.heads,
            n_kv_heads=design.kv_heads,
            head_dim=HEAD_DIM,
            bias=True,
            rope=RotaryEmbedding(HEAD_DIM),
        )

    model = DecoderLM(
        len(CHARACTERS), d_model=WIDTH, n_heads=design.heads, n_layers=1, context=LENGTH, attention=attention
    )
    feed = model.stack.blocks[0].feed_forward
    if design.feed != feed.widen.out_features:
        feed.widen, feed.narrow = nn.Linear(WIDTH, design.feed), nn.Linear(design.feed, WIDTH)
    return model


def text_loss(*, held_out: bool, rows: int) -> DrawLoss:
    """Return what draws the loss of so many windows of text."""
    text = encode(read_text(held_out=held_out))

    def draw_loss(model: nn.Module, rng: torch.Generator) -> Tensor:
        return next_token_loss(model, draw_windows(text, count=rows, length=LENGTH + 1, rng=rng))

    return draw_loss


def train_on_text(model: DecoderLM, *, steps: int, learning_rate: float, seed: int) -> DecoderLM:
    """Train the model on, and return it."""
    loss = text_loss(held_out=False, rows=16)
    with one_thread():
        train(model, loss, steps=steps, learning_rate=learning_rate, seed=seed, progress=False)
    return model


def trained(design: Design, *, seed: int, steps: int = STEPS) -> DecoderLM:
    """Return a model of this design, trained; a seed decides its start and its batches."""
    torch.manual_seed(seed)
    return train_on_text(build(design), steps=steps, learning_rate=5e-3, seed=seed)


def held_out_loss(model: DecoderLM) -> float:
    """Return nats per character on text that was not trained on, the same windows for every model."""
    with torch.no_grad():
        return mean_loss(model, text_loss(held_out=True, rows=48), draws=5, seed=1)
