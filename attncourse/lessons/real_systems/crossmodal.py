"""Two ways to let words read something that is no text: by cross-attention, or in one sequence with it.

What is read comes in pieces, each a vector: patches of a picture (Dosovitskiy et al. 2020, ViT,
https://arxiv.org/abs/2010.11929) or frames of a sound. By cross-attention: Flamingo (Alayrac et al. 2022,
https://arxiv.org/abs/2204.14198) and Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356). In one sequence:
LLaVA (Liu et al. 2023, https://arxiv.org/abs/2304.08485).
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse._shared.validate import check_widths, require
from attncourse.models.blocks import Stack, init_embeddings, watch_weights


def cut_patches(images: Float[Tensor, "b y x"], patch: int) -> Float[Tensor, "b n pixels"]:
    """Cut squares of patch x patch pixels, row by row.

    Raises:
        ValueError: the squares do not tile the image.
    """
    _, y, x = images.shape
    require(y % patch == 0 and x % patch == 0, f"patches of {patch} must tile the image, got {y} x {x}")
    return rearrange(images, "b (row py) (col px) -> b (row col) (py px)", py=patch, px=patch)


class CrossReader(nn.Module):
    """One stack reads the pieces, another the words, whose tokens read the first stack's features by cross-attention.

    Args:
        vocabulary: how many words there are.
        width: numbers in a piece.
        pieces, words: how many pieces there are, and words at most.
        causal: whether a word is blind to the words after it.
        d_model, n_heads, impl: of both stacks.
        n_layers: blocks of each.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        pieces: int,
        words: int,
        causal: bool = False,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 1,
        impl: str = "torch",
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary, width=width, pieces=pieces, words=words)
        shape = dict(n_layers=n_layers, positions="learned", impl=impl)
        self.embed_piece, self.embed_word = _embeddings(width, vocabulary, d_model)
        self.piece_stack = Stack(d_model, n_heads, context=pieces, **shape)
        # Pieces are as long as what stands in them; a place whispered beside them is learned late or never.
        nn.init.normal_(self.piece_stack.places.weight, std=0.5)
        self.word_stack = Stack(d_model, n_heads, context=words, causal=causal, d_context=d_model, **shape)
        self.to_vocabulary = nn.Linear(d_model, vocabulary)

    def forward(self, pieces: Float[Tensor, "b n width"], words: Int[Tensor, "b t"]) -> Float[Tensor, "b t n_words"]:
        """Return logits of what stands at each place of the sentence, or, if causal, of what comes after it."""
        features = self.piece_stack(self.embed_piece(pieces))
        return self.to_vocabulary(self.word_stack(self.embed_word(words), features))

    def weights_on_pieces(
        self, pieces: Float[Tensor, "b n width"], words: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b h t n"]:
        """Return how much weight each head of the last block gives each piece when a word reads; rows sum to 1."""
        with torch.no_grad(), watch_weights(self.word_stack.blocks[-1].cross_attention) as seen:
            self(pieces, words)
        return seen[0]


class OneSequence(nn.Module):
    """Pieces are projected to the words' width and stand before the words in one sequence, which one stack reads.

    Pieces read each other, and words read pieces and words: a prefix model. Arguments are those of `CrossReader`;
    n_layers is 2 (default), so that it has about as many parameters.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        pieces: int,
        words: int,
        causal: bool = False,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        impl: str = "torch",
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary, width=width, pieces=pieces, words=words)
        self.pieces, self.causal = pieces, causal
        self.embed_piece, self.embed_word = _embeddings(width, vocabulary, d_model)
        self.stack = Stack(d_model, n_heads, n_layers=n_layers, context=pieces + words, positions="learned", impl=impl)
        with torch.no_grad():
            nn.init.normal_(self.stack.places.weight[:pieces], std=0.5)  # as in CrossReader
        self.to_vocabulary = nn.Linear(d_model, vocabulary)

    def forward(self, pieces: Float[Tensor, "b n width"], words: Int[Tensor, "b t"]) -> Float[Tensor, "b t n_words"]:
        """Return logits at the words' places, as `CrossReader` does."""
        x = torch.cat([self.embed_piece(pieces), self.embed_word(words)], dim=1)
        mask = self.who_reads_whom(words.shape[1]).to(x.device)
        return self.to_vocabulary(self.stack(x, mask=mask)[:, self.pieces :])

    def who_reads_whom(self, words: int) -> Bool[Tensor, "n n"]:
        """Return the mask of the pieces and so many words: no piece reads a word."""
        n = self.pieces + words
        reads = torch.ones(n, n, dtype=torch.bool)
        reads[: self.pieces, self.pieces :] = False
        if self.causal:
            reads[self.pieces :, self.pieces :] = torch.ones(words, words, dtype=torch.bool).tril()
        return reads

    def weights_on_pieces(
        self, pieces: Float[Tensor, "b n width"], words: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b h t n"]:
        """Return how much weight each head of the last block gives each piece when a word reads; the rest is on words."""
        with torch.no_grad(), watch_weights(self.stack.blocks[-1].self_attention) as seen:
            self(pieces, words)
        return seen[0][:, :, self.pieces :, : self.pieces]


def _embeddings(width: int, vocabulary: int, d_model: int) -> tuple[nn.Linear, nn.Embedding]:
    """Return what turns pieces and words into tokens."""
    piece, word = nn.Linear(width, d_model), nn.Embedding(vocabulary, d_model)
    init_embeddings(word)
    nn.init.normal_(piece.weight, std=width**-0.5)
    return piece, word
