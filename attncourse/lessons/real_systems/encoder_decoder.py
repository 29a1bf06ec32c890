"""The encoder-decoder transformer: one stack reads the source, the other writes and reads the first one's features.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3; Raffel et al. 2019, T5,
https://arxiv.org/abs/1910.10683, for normalization before each sublayer. It is called and trained as `Seq2Seq` is.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.validate import check_widths
from attncourse.models.blocks import Stack, init_embeddings, watch_weights
from attncourse.models.generate import generate


class EncoderDecoder(nn.Module):
    """Self-attention works inside each stack, cross-attention from the second into the first.

    Args:
        source_vocabulary, target_vocabulary: how many tokens there are on either side; token 0 is padding.
        d_model, n_heads: of both stacks.
        n_layers: blocks of each.
        context: the longest sequence on either side.
        positions, impl: as in `Stack`.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        context: int = 64,
        positions: str = "rotary",
        impl: str = "torch",
    ):
        super().__init__()
        check_widths(source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary)
        shape = dict(n_layers=n_layers, context=context, positions=positions, impl=impl)
        self.embed_source = nn.Embedding(source_vocabulary, d_model)
        self.embed_target = nn.Embedding(target_vocabulary, d_model)
        init_embeddings(self.embed_source, self.embed_target)
        self.encoder = Stack(d_model, n_heads, **shape)
        self.decoder = Stack(d_model, n_heads, causal=True, d_context=d_model, **shape)
        self.to_vocabulary = nn.Linear(d_model, target_vocabulary)

    def encode(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b s d"]:
        """Return features of the source's tokens, each from both of its sides."""
        return self.encoder(self.embed_source(source), lengths=lengths)

    def decode(
        self, target_in: Int[Tensor, "b t"], memory: Float[Tensor, "b s d"], lengths: Int[Tensor, " b"]
    ) -> Float[Tensor, "b t n"]:
        """Return logits of the token after each, from what was written before it and from the source's features."""
        return self.to_vocabulary(self.decoder(self.embed_target(target_in), memory, context_lengths=lengths))

    def forward(
        self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"], target_in: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t n"]:
        """Return logits of the next target token at every step, given the right ones before it (teacher forcing)."""
        return self.decode(target_in, self.encode(source, lengths), lengths)

    def reader(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"]):
        """Return what takes what has been written (b, t) to logits (b, t, n):
        the source is encoded once. It is for `generate`.
        """
        memory = self.encode(source, lengths)
        return lambda target_in: self.decode(target_in, memory, lengths)

    def cross_weights(
        self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"], target_in: Int[Tensor, "b t"]
    ) -> Float[Tensor, "layers b h t s"]:
        """Return where each head of each block of the decoder reads the source while it writes."""
        with torch.no_grad(), watch_weights(*(block.cross_attention for block in self.decoder.blocks)) as seen:
            self(source, lengths, target_in)
        return torch.stack(seen)

    @torch.no_grad()
    def decode_greedy(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"], *, begin: int, steps: int):
        """Return `steps` likeliest tokens (b, steps),
        and the mean over heads and blocks of their cross-attention (b, steps, s).
        """
        first = torch.full((len(source), 1), begin, device=source.device)
        tokens = generate(self.reader(source, lengths), list(first), steps=steps)
        read = torch.cat([first, tokens[:, :-1]], dim=1)
        return tokens, self.cross_weights(source, lengths, read).mean(dim=(0, 2))
