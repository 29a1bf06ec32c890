"""A language model with a memory of fixed size: it reads any number of tokens, in pieces of any length, from its state.

The blocks of `DecoderLM` with linear attention in them. What is left of a token tells how long ago it came, so no other
positions are added, and no length is too long.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.validate import check_widths
from attncourse.linear_attention import LinearAttention, LinearState
from attncourse.models.blocks import FeedForward, init_embeddings


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
