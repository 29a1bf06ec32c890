"""Encoder-only models: every token reads both of its sides, and says what it stands for or what was hidden there.

Devlin et al. 2018, BERT, https://arxiv.org/abs/1810.04805. There a fifth of the hidden tokens are shown after all, half of
them replaced at random, so that a later task without hidden tokens looks familiar; here all are hidden.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.masks import blank_padding
from attncourse._shared.validate import check_widths, require
from attncourse.models.blocks import Stack, init_embeddings, watch_weights

NOT_ASKED = -100  # what cross_entropy leaves out


class Encoder(nn.Module):
    """The encoder is an embedding and a stack of blocks without a causal mask: tokens (b, t) to features (b, t, d).

    Args:
        vocabulary: how many tokens there are.
        d_model, n_heads, n_layers, context, positions, impl: as in `Stack`.
        causal: True blinds each token to its right, for comparison.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        context: int = 64,
        positions: str = "rotary",
        causal: bool = False,
        impl: str = "torch",
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary)
        self.embed = nn.Embedding(vocabulary, d_model)
        init_embeddings(self.embed)
        self.stack = Stack(
            d_model, n_heads, n_layers=n_layers, context=context, positions=positions, causal=causal, impl=impl
        )

    def forward(self, tokens: Int[Tensor, "b t"], lengths: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b t d"]:
        """Return features of each token; only the first lengths[i] of row i exist."""
        return self.stack(self.embed(tokens), lengths=lengths)

    def attention_weights(
        self, tokens: Int[Tensor, "b t"], lengths: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "layers b h t t"]:
        """Return the weights of every head of every block while reading the tokens."""
        with torch.no_grad(), watch_weights(*(block.self_attention for block in self.stack.blocks)) as seen:
            self(tokens, lengths)
        return torch.stack(seen)


class Classifier(nn.Module):
    """The model gives logits of n classes for a whole sequence, from the mean of its tokens' features."""

    def __init__(self, encoder: Encoder, d_model: int, classes: int):
        super().__init__()
        self.encoder, self.to_classes = encoder, nn.Linear(d_model, classes)

    def forward(self, tokens: Int[Tensor, "b t"], lengths: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b n"]:
        """Return the classes' logits; padding counts neither in attention nor in the mean.

        Raises:
            ValueError: a sequence is empty.
        """
        features = self.encoder(tokens, lengths)
        if lengths is None:
            return self.to_classes(features.mean(dim=1))
        require(int(lengths.min()) >= 1, f"every sequence needs a token, got lengths {lengths.tolist()}")
        existing = blank_padding(features[:, None], lengths)[:, 0]
        return self.to_classes(existing.sum(dim=1) / lengths[:, None])


class MaskedLM(nn.Module):
    """The model gives logits (b, t, n) of what stands at each place, hidden or not."""

    def __init__(self, encoder: Encoder, d_model: int, vocabulary: int):
        super().__init__()
        self.encoder, self.to_vocabulary = encoder, nn.Linear(d_model, vocabulary)

    def forward(self, tokens: Int[Tensor, "b t"], lengths: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b t n"]:
        """Return the logits; only the first lengths[i] tokens of row i exist."""
        return self.to_vocabulary(self.encoder(tokens, lengths))


def hide_tokens(
    tokens: Int[Tensor, "b t"], *, share: float, hidden: int, rng: torch.Generator
) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Return the tokens with about a `share` of them replaced by `hidden`, and what stood there; NOT_ASKED elsewhere.

    Raises:
        ValueError: the share lies outside (0, 1].
    """
    require(0 < share <= 1, f"share must lie in (0, 1], got {share}")
    asked = (torch.rand(tokens.shape, generator=rng) < share).to(tokens.device)
    return tokens.masked_fill(asked, hidden), tokens.masked_fill(~asked, NOT_ASKED)


def masked_loss(
    model: MaskedLM, tokens: Int[Tensor, "b t"], *, share: float, hidden: int, rng: torch.Generator
) -> Float[Tensor, ""]:
    """Return mean cross-entropy in nats of the hidden tokens, given the others."""
    shown, asked = hide_tokens(tokens, share=share, hidden=hidden, rng=rng)
    return cross_entropy(model(shown).flatten(0, 1), asked.flatten(), ignore_index=NOT_ASKED)
