"""An encoder for long documents, and two tasks by rule whose evidence is far away: classify, and look up.

Blocks of global and local attention with a radius per layer, as Beltagy et al. 2020, https://arxiv.org/abs/2004.05150,
section 4.1, stack them; normalized before each sublayer as the course's other blocks.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.rope import LearnedPositions
from attncourse._shared.validate import check_widths, require
from attncourse.global_local import GlobalLocalAttention
from attncourse.models.blocks import FeedForward, init_embeddings


class DocumentBlock(nn.Module):
    """A block is global and local attention, then a feed-forward, each added to x.

    Args:
        shared: whether global tokens read through the matrices of all others.
        d_model, n_heads, radius, impl: as in `GlobalLocalAttention`.
    """

    def __init__(self, d_model: int, n_heads: int, *, radius: int, impl: str = "blocked", shared: bool = False):
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = layer = GlobalLocalAttention(d_model, n_heads, radius=radius, impl=impl)
        if shared:
            layer.w_q_global, layer.w_k_global, layer.w_v_global = layer.w_q, layer.w_k, layer.w_v
        self.feed_forward = FeedForward(d_model)

    def forward(self, x: Float[Tensor, "b t d"], **reading) -> Float[Tensor, "b t d"]:
        """Return x after the block; `reading` is global_indices and key_lengths, as in `GlobalLocalAttention`."""
        x = x + self.attention(self.norm_attention(x), **reading)
        return x + self.feed_forward(self.norm_feed(x))


class DocumentEncoder(nn.Module):
    """The encoder takes tokens to logits, for every token of a document, through blocks that differ in their radius.

    Args:
        vocabulary: how many tokens there are.
        outputs: how many logits each token gets.
        radii: the radius of each block.
        context: the longest document.
        global_indices: positions of the global tokens (default: none).
        shared: whether global tokens read through the matrices of all others.
        d_model, n_heads, impl: as in `GlobalLocalAttention`.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        radii: tuple[int, ...],
        context: int,
        global_indices: tuple[int, ...] = (),
        d_model: int = 32,
        n_heads: int = 4,
        impl: str = "blocked",
        shared: bool = False,
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary, outputs=outputs, context=context)
        require(len(radii) >= 1, f"a radius per block: there must be at least one, got {radii}")
        self.embed = nn.Embedding(vocabulary, d_model)
        init_embeddings(self.embed)
        self.places = LearnedPositions(context, d_model)
        self.blocks = nn.ModuleList(DocumentBlock(d_model, n_heads, radius=r, impl=impl, shared=shared) for r in radii)
        self.norm, self.to_outputs = nn.LayerNorm(d_model), nn.Linear(d_model, outputs)
        self.register_buffer("global_indices", torch.tensor(global_indices, dtype=torch.long), persistent=False)

    def forward(
        self, tokens: Int[Tensor, "b t"], *, key_lengths: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b t n"]:
        """Return logits of every token."""
        return self.from_embedded(self.embed(tokens), key_lengths=key_lengths)

    def from_embedded(
        self, x: Float[Tensor, "b t d"], *, key_lengths: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b t n"]:
        """Return logits from embedded tokens, of which a gradient can be asked."""
        x = self.places(x)
        for block in self.blocks:
            x = block(x, global_indices=self.global_indices, key_lengths=key_lengths)
        return self.to_outputs(self.norm(x))


FIRST, TOPICS, FILLERS = 0, 4, 12
DOCUMENT_VOCABULARY = 1 + TOPICS + FILLERS


def draw_documents(
    count: int, length: int, *, far: int, rng: torch.Generator
) -> tuple[Int[Tensor, "count length"], Int[Tensor, " count"]]:
    """Draw documents and their topics: token 0 asks, and words of all topics stand among fillers,
    `far` or more behind it.

    The topic has three words, the three others one each: who sees one word knows little, who sees all can count.

    Raises:
        ValueError: six words do not fit behind `far`.
    """
    words = TOPICS + 2
    require(length - far >= words and far >= 1, f"{words} words must fit into {far}..{length - 1}, and far be positive")
    tokens = torch.randint(1 + TOPICS, DOCUMENT_VOCABULARY, (count, length), generator=rng)
    tokens[:, 0] = FIRST
    topics = torch.randint(TOPICS, (count,), generator=rng)
    each_once = torch.arange(TOPICS).expand(count, -1)
    said = 1 + torch.cat([each_once, topics[:, None].expand(-1, 2)], dim=1)
    places = torch.rand(count, length - far, generator=rng).argsort(dim=1)[:, :words] + far
    return tokens.scatter(1, places, said), topics


NAMES, VALUES = 16, 8
RECALL_VOCABULARY = 2 + NAMES * VALUES + NAMES


def draw_recall(
    count: int, length: int, *, pairs: int, gap: int, rng: torch.Generator
) -> tuple[Int[Tensor, "count length"], Int[Tensor, "count pairs"], Int[Tensor, "count pairs"]]:
    """Draw rows, the places of their questions, and the answers:
    pairs of a name and a value first, then, `gap` later, the names.

    A pair is one token and a question is one; all else is one filler, and token 0 is free to be global.

    Raises:
        ValueError: more pairs than names, or than places in either part.
    """
    part = (length - 1 - gap) // 2
    require(1 <= pairs <= min(NAMES, part), f"pairs must lie in 1..{min(NAMES, part)}, got {pairs}")
    names = torch.rand(count, NAMES, generator=rng).argsort(dim=1)[:, :pairs]
    values = torch.randint(VALUES, (count, pairs), generator=rng)
    told, asked = (torch.rand(count, part, generator=rng).argsort(dim=1)[:, :pairs] + 1 for _ in range(2))
    asked = asked + length - 1 - part
    tokens = torch.ones(count, length, dtype=torch.long)
    tokens[:, 0] = FIRST
    tokens.scatter_(1, told, 2 + names * VALUES + values)
    return tokens.scatter(1, asked, 2 + NAMES * VALUES + names), asked, values
