"""A small language model of real text, what its heads look at, and what it loses without them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import mean_loss, train
from attncourse.multi_head import share_on

LENGTH, LAYERS, HEADS = 64, 2, 8
DELIMITERS = "\n.,:;()[]{}'\"`"


def train_text_model(*, seed: int, steps: int = 500) -> DecoderLM:
    """Return a decoder of 2 layers of 8 heads, trained to predict the next character of Python's documentation."""
    torch.manual_seed(seed)
    model = DecoderLM(len(CHARACTERS), d_model=64, n_heads=HEADS, n_layers=LAYERS, context=LENGTH)
    loss = _loss_on(encode(read_text(held_out=False)))
    train(model, loss, steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return model


def held_out_loss(model: DecoderLM) -> float:
    """Return the model's loss in nats per character on text that it never read."""
    return mean_loss(model, _loss_on(encode(read_text(held_out=True))), draws=40)


def _loss_on(tokens):
    def loss(model, rng):
        return next_token_loss(model, draw_windows(tokens, count=16, length=LENGTH + 1, rng=rng))

    return loss


def kinds_of_keys(windows: Int[Tensor, "b n"]) -> dict[str, Bool[Tensor, "b n n"]]:
    """Return, for each kind of key, which keys (last axis) are of that kind as each query (axis before) sees them."""
    place = torch.arange(windows.shape[1])
    back = place[:, None] - place
    space = torch.where(windows == encode(" "), place, -1).cummax(dim=1).values
    kinds = {
        "itself": back == 0,
        "the one before": back == 1,
        "the last space": (place == space[..., None]) & (back > 0),
        "punctuation": torch.isin(windows, encode(DELIMITERS))[:, None, :] & (back > 0),
        "the same letter": (windows[:, :, None] == windows[:, None, :]) & (back > 0),
    }
    return {kind: marks.expand(len(windows), -1, -1) for kind, marks in kinds.items()}


def shares_by_kind(model: DecoderLM, *, rng: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the share of each head's weight on each kind of key, layer after layer, and the share of even weights."""
    windows = draw_windows(encode(read_text(held_out=True)), count=64, length=LENGTH, rng=rng)
    weights = model.attention_weights(windows)
    even = torch.ones(LENGTH, LENGTH).tril() / torch.arange(1, LENGTH + 1)[:, None]
    even = even.expand(len(windows), 1, -1, -1)
    kinds = kinds_of_keys(windows)
    shares = {kind: torch.cat([share_on(layer, marks) for layer in weights]) for kind, marks in kinds.items()}
    return shares, {kind: share_on(even, marks).item() for kind, marks in kinds.items()}


@torch.no_grad()
def loss_without(model: DecoderLM, heads: list[int], windows: Int[Tensor, "b n"]) -> float:
    """Return the loss on some windows with these heads silenced; head i of layer l has the number 8 l + i."""
    mask = torch.ones(LAYERS * HEADS)
    mask[heads] = 0.0
    return next_token_loss(model, windows, head_mask=mask.view(LAYERS, HEADS)).item()


def order_of_importance(model: DecoderLM, windows: Int[Tensor, "b n"]) -> list[int]:
    """Return the heads, the one whose silence costs least first."""
    return sorted(range(LAYERS * HEADS), key=lambda head: loss_without(model, [head], windows))


def ablation_curves(model: DecoderLM, *, rng: torch.Generator) -> tuple[list[int], dict[str, list[float]]]:
    """Return the heads from the least important one, and the loss without the first 0, 1, ... of them from either end.

    Importance is measured on other windows than the loss.
    """
    windows = draw_windows(encode(read_text(held_out=True)), count=128, length=LENGTH + 1, rng=rng)
    order = order_of_importance(model, windows[:64])
    ends = {"least important first": order, "most important first": order[::-1]}
    curves = {
        name: [loss_without(model, heads[:gone], windows[64:]) for gone in range(len(heads) + 1)]
        for name, heads in ends.items()
    }
    return order, curves
