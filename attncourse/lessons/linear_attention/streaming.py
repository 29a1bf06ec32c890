"""A language model with a memory of fixed size: it reads any number of tokens, in pieces of any length, from its state.

The blocks of `DecoderLM` with linear attention in them. What is left of a token tells how long ago it came, so no other
positions are added, and no length is too long.
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.validate import check_widths
from attncourse.linear_attention import LinearAttention, LinearState
from attncourse.masks import window_mask
from attncourse.models.blocks import FeedForward, init_embeddings
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import train

TRAINED, BATCH, STEPS = 128, 8, 160
EDGES = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


class StreamingLM(nn.Module):
    """The model is blocks of causal linear attention and a feed-forward between an embedding and a linear map to the
    vocabulary.

    Args:
        vocabulary: how many tokens there are.
        d_model, n_heads, n_layers: width of the tokens, heads of each block, number of blocks.
        decay, impl: as in `LinearAttention`.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        decay: str | None = "gated",
        impl: str = "blocked",
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary, n_layers=n_layers)
        self.embed = nn.Embedding(vocabulary, d_model)
        init_embeddings(self.embed)
        self.mixers = nn.ModuleList(
            LinearAttention(d_model, n_heads, causal=True, decay=decay, impl=impl) for _ in range(n_layers)
        )
        self.feeds = nn.ModuleList(FeedForward(d_model) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 * n_layers + 1))
        self.to_vocabulary = nn.Linear(d_model, vocabulary)

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t n"]:
        """Return logits of the token after each."""
        return self.read(tokens)[0]

    def read(
        self, tokens: Int[Tensor, "b t"], states: list[LinearState] | None = None
    ) -> tuple[Float[Tensor, "b t n"], list[LinearState]]:
        """Return logits of the token after each, and the state of each block: hand it back to read on."""
        x, left = self.embed(tokens), []
        for i, (mixer, feed) in enumerate(zip(self.mixers, self.feeds, strict=True)):
            mixed, state = mixer(self.norms[2 * i](x), state=states[i] if states else None, need_state=True)
            x = x + mixed
            x = x + feed(self.norms[2 * i + 1](x))
            left.append(state)
        return self.to_vocabulary(self.norms[-1](x)), left


READERS: dict[str, Callable[[], nn.Module]] = {
    "gated linear": lambda: StreamingLM(len(CHARACTERS)),
    "softmax, rotary": lambda: DecoderLM(len(CHARACTERS), context=EDGES[-1]),
}


def train_reader(name: str, *, seed: int = 0) -> nn.Module:
    """Return a reader of `READERS`, trained on pieces of 128 characters of the documentation of Python."""
    text = encode(read_text(held_out=False))

    def draw_loss(model, rng):
        return next_token_loss(model, draw_windows(text, count=BATCH, length=TRAINED + 1, rng=rng))

    torch.manual_seed(seed)
    reader = READERS[name]()
    train(reader, draw_loss, steps=STEPS, seed=seed, progress=False)
    return reader


def held_out_stream(count: int = 3) -> Int[Tensor, "count n"]:
    """Return long pieces of held-out text, one character longer than what is read."""
    text = encode(read_text(held_out=True))
    return draw_windows(text, count=count, length=EDGES[-1] + 1, rng=torch.Generator().manual_seed(1))


@torch.no_grad()
def loss_between(reader: Callable[..., Tensor], stream: Int[Tensor, "b n"], **masking) -> list[float]:
    """Return the mean loss, in nats per character, between neighbouring `EDGES` of what is read at once."""
    losses = [
        cross_entropy(reader(row[None, :-1], **masking)[0], row[1:], reduction="none") for row in stream
    ]  # one by one: the scores of a long row are many
    by_place = torch.stack(losses).mean(dim=0)
    return [by_place[a:b].mean().item() for a, b in itertools.pairwise(EDGES)]


@torch.no_grad()
def loss_read_afresh(reader: Callable[..., Tensor], stream: Int[Tensor, "b n"]) -> float:
    """Return the mean loss of the very characters of the last bucket of `EDGES`, each read from 65 to 128 before it alone.

    So much did the reader see in training. What it loses beyond this by reading from the beginning is lost to the length.
    """
    half = TRAINED // 2
    pieces = stream[:, EDGES[-2] - half :].unfold(1, TRAINED + 1, half).flatten(0, 1)
    logits = reader(pieces[:, :-1])[:, half:]
    return cross_entropy(logits.flatten(0, 1), pieces[:, half + 1 :].flatten()).item()


def read_far(readers: dict[str, nn.Module], stream: Int[Tensor, "b n"]) -> dict[str, list[float]]:
    """Return what `loss_between` says of each reader, and of softmax also where it sees 128 characters at a time."""
    n = stream.shape[1] - 1
    in_window = {"mask": window_mask(n, n, window=TRAINED)}
    found = {name: loss_between(reader, stream) for name, reader in readers.items()}
    return found | {"softmax, window of 128": loss_between(readers["softmax, rotary"], stream, **in_window)}
