"""A decoder-only language model: each token says what comes next, from what came before.

Radford et al. 2019, GPT-2 ("Language Models are Unsupervised Multitask Learners"), for pre-normalized blocks and learned
positions; Su et al. 2021, https://arxiv.org/abs/2104.09864, for rotary ones.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.cache import KeyValueCache
from attncourse._shared.validate import check_widths, require

from .blocks import Stack, init_embeddings, watch_weights


class DecoderLM(nn.Module):
    """The model is a stack of causal blocks between an embedding and a linear map to the vocabulary.

    Args:
        vocabulary: how many tokens there are.
        d_model: width of the tokens.
        n_heads: heads of each block.
        n_layers: number of blocks.
        context: the longest sequence.
        positions: "rotary" or "learned".
        causal: False drops the mask: then a token sees the very next one that it should predict.
        impl: as in `MultiHeadAttention`.
        attention: makes each block's self-attention in place of a multi-head one; it sees to its own causality and
            positions: `lambda: GroupedQueryAttention(64, 8, n_kv_heads=2, causal=True, rope=RotaryEmbedding(8))`.
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
        causal: bool = True,
        impl: str = "torch",
        attention: Callable[[], nn.Module] | None = None,
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary)
        self.embed = nn.Embedding(vocabulary, d_model)
        init_embeddings(self.embed)
        self.stack = Stack(
            d_model, n_heads, n_layers=n_layers, context=context, positions=positions, causal=causal, impl=impl,
            attention=attention,
        )  # fmt: skip
        self.to_vocabulary = nn.Linear(d_model, vocabulary)

    @property
    def context(self) -> int:
        """Return the longest sequence."""
        return self.stack.context

    def forward(
        self,
        tokens: Int[Tensor, "b t"],
        *,
        lengths: Int[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        head_mask: Bool[Tensor, "layers h"] | Float[Tensor, "layers h"] | None = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Float[Tensor, "b t n"]:
        """Return logits of the token after each.

        Args:
            lengths: how many tokens of each row exist; those after them are padding.
            mask: who may see whom, on top of the causal mask, or in place of it where causal is False.
            head_mask: a factor on the output of each head of each block; 0 silences it.
            caches: one a block, holding what stands before these tokens; these are added. For layers that take a cache.
        """
        return self.to_vocabulary(
            self.stack(self.embed(tokens), lengths=lengths, mask=mask, head_mask=head_mask, caches=caches)
        )

    def attention_weights(self, tokens: Int[Tensor, "b t"], **masking) -> Float[Tensor, "layers b h t t"]:
        """Return the weights of every head of every block while reading the tokens; `masking` as in forward."""
        with torch.no_grad(), watch_weights(*(block.self_attention for block in self.stack.blocks)) as seen:
            self(tokens, **masking)
        return torch.stack(seen)


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "b t"], **masking) -> Float[Tensor, ""]:
    """Return mean cross-entropy in nats of each token after the first, given those before it.

    Raises:
        ValueError: there is no second token.
    """
    require(tokens.shape[1] >= 2, f"what comes next needs a token before it, got length {tokens.shape[1]}")
    logits = model(tokens[:, :-1], **masking)
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
