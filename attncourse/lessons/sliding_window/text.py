"""Character models that see everything or a window, and what they lose: at each place of a row, and without their sink."""

import contextlib
import functools
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.heads import merge_heads, split_heads
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import one_thread, train
from attncourse.multi_head import MultiHeadAttention
from attncourse.sliding_window import local_mask

LENGTH, LONG, WINDOW, NARROW = 48, 384, 12, 8
STEPS = 400
FIRST = 0  # the token of padding, which no text holds


@functools.cache
def _text(*, held_out: bool) -> Int[Tensor, " n"]:
    return encode(read_text(held_out=held_out))


def text_rows(
    count: int, length: int, rng: torch.Generator, *, held_out: bool, first_token: bool = False
) -> Int[Tensor, "count length"]:
    """Return pieces of the documentation; with `first_token` each begins with one and the same token, in place of its own."""
    rows = draw_windows(_text(held_out=held_out), count=count, length=length, rng=rng)
    if first_token:
        rows[:, 0] = FIRST
    return rows


def train_text(
    *, window: int | None = None, first_token: bool = False, seed: int = 0, steps: int = STEPS, length: int = LENGTH
) -> DecoderLM:
    """Return a trained decoder of two layers; without a window it sees all of the past.

    Args:
        window: keys that a query sees in each layer.
        first_token: whether every row of training begins with the same token.
        seed: of the start and of the batches.
        steps: of training.
        length: characters of a row; a batch has 768 in all.
    """
    torch.manual_seed(seed)
    model = DecoderLM(len(CHARACTERS), d_model=64, n_heads=2, n_layers=2, context=LONG)
    mask = None if window is None else local_mask(length, length, window=window)

    def draw_loss(model, rng):
        rows = text_rows(16 * LENGTH // length, length + 1, rng, held_out=False, first_token=first_token)
        return next_token_loss(model, rows, mask=mask)

    with one_thread():
        train(model, draw_loss, steps=steps, learning_rate=5e-3, progress=False, seed=seed)
    return model


@torch.no_grad()
def loss_by_place(
    model: DecoderLM, length: int, *, count: int, window: int | None = None, sinks: int = 0, first_token: bool = False
) -> Float[Tensor, " length"]:
    """Return the loss at each place, the mean of `count` held-out rows: the same rows at every call.

    Args:
        model: a trained decoder.
        length: characters of a row.
        count: rows.
        window, sinks: who is seen, as in `local_mask`; without a window all of the past.
        first_token: whether each row begins with the fixed token.
    """
    rows = text_rows(count, length + 1, torch.Generator().manual_seed(1), held_out=True, first_token=first_token)
    masking = {} if window is None else {"mask": local_mask(length, length, window=window, sinks=sinks)}
    with one_thread():
        each = [
            cross_entropy(model(some[:, :-1], **masking).mT, some[:, 1:], reduction="none") for some in rows.split(16)
        ]
    return torch.cat(each).mean(dim=0)


class CappedDistances(nn.Module):
    """A causal layer with the weights of another, in which a key further away than `most` is turned as one at `most`.

    Han et al. 2023, https://arxiv.org/abs/2308.16137: all keys are still seen, at distances that training knows.
    """

    def __init__(self, layer: MultiHeadAttention, most: int):
        super().__init__()
        self.layer, self.most = layer, most

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the output of each token."""
        layer, places = self.layer, torch.arange(x.shape[1])
        q, k, v = (split_heads(project(x), layer.n_heads) for project in (layer.w_q, layer.w_k, layer.w_v))
        distance = places[:, None] - places
        near = layer.rope(q, places) @ layer.rope(k, places).mT
        far = layer.rope(q, torch.full_like(places, self.most)) @ layer.rope(k, torch.zeros_like(places)).mT
        scores = torch.where(distance <= self.most, near, far) * layer.head_dim**-0.5
        weights = scores.masked_fill(distance < 0, -torch.inf).softmax(dim=-1)
        return layer.w_o(merge_heads(weights @ v))


@contextlib.contextmanager
def capped_distances(model: DecoderLM, most: int) -> Iterator[DecoderLM]:
    """Let every layer of the model take distances above `most` for `most`, inside the block."""
    layers = [block.self_attention for block in model.stack.blocks]
    try:
        for block, layer in zip(model.stack.blocks, layers, strict=True):
            block.self_attention = CappedDistances(layer, most)
        yield model
    finally:
        for block, layer in zip(model.stack.blocks, layers, strict=True):
            block.self_attention = layer


def losses_on_long_rows(model: DecoderLM, *, window: int | None = None, cap: int | None = None) -> Float[Tensor, " n"]:
    """Return the loss at each place of rows eight times as long as those of training.

    Args:
        model: a trained decoder.
        window: that it was trained with.
        cap: largest distance; greater ones are taken for it.
    """
    with contextlib.nullcontext() if cap is None else capped_distances(model, cap):
        return loss_by_place(model, LONG, count=32, window=window)


def weight_on_first(model: DecoderLM, *, first_token: bool) -> tuple[Float[Tensor, "layers h b t"], Int[Tensor, "b t"]]:
    """Return each head's weight on the first token, of queries in the second half of held-out rows, and what stands there."""
    rows = text_rows(128, LENGTH, torch.Generator().manual_seed(3), held_out=True, first_token=first_token)
    with one_thread():
        weights = model.attention_weights(rows)[..., 0]
    return weights.transpose(1, 2)[..., LENGTH // 2 :], rows[:, LENGTH // 2 :]


def sink_measures(model: DecoderLM, *, first_token: bool) -> dict[str, float]:
    """Return the largest weight that a head gives to the first token on average, and the loss in three attentions.

    Losses are those of the second half of a row, where the first token is out of every window.
    """
    late = slice(LENGTH // 2, None)
    attentions = {"full": {}, "window": dict(window=NARROW), "window, 1 sink": dict(window=NARROW, sinks=1)}
    weights, _ = weight_on_first(model, first_token=first_token)
    return {"share": weights.mean(dim=(2, 3)).max().item()} | {
        name: loss_by_place(model, LENGTH, count=128, first_token=first_token, **seen)[late].mean().item()
        for name, seen in attentions.items()
    }
