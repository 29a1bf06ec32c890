"""The networks that the chapter compares. They differ in what the decoder gets of a source, and in how far away words are."""

import torch
from torch import nn

from attncourse.additive import AdditiveAttention
from attncourse.models.dates import SOURCE_VOCABULARY, TARGET_VOCABULARY
from attncourse.models.seq2seq import BahdanauDecoder, Encoder, FixedVectorDecoder, Seq2Seq

# One vector is six entries wider than attention, so that both have about as many parameters.
WIDTHS = {"one vector": 70, "mean vector": 70, "one vector, twice as wide": 140, "attention": 64}


class MeanEncoder(Encoder):
    """An encoder whose one vector is the mean of its states: every word is a single step away from it."""

    def forward(self, embedded, lengths):
        """Return the states (b, s, d), zero at padding, and their mean over the words of each source (b, d)."""
        states, _ = super().forward(embedded, lengths)
        return states, states.sum(dim=1) / lengths[:, None].to(states)


def make_network(design: str, *, seed: int) -> Seq2Seq:
    """Return an untrained network of a design, a key of `WIDTHS`. PyTorch's own generator is left as it was."""
    width = WIDTHS[design]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Seq2Seq(len(SOURCE_VOCABULARY), len(TARGET_VOCABULARY), width=width, decoder=_decoder(design, width))
        if design == "mean vector":
            network.encoder = MeanEncoder(len(SOURCE_VOCABULARY), width)
    return network


def _decoder(design: str, width: int) -> nn.Module:
    if design != "attention":
        return FixedVectorDecoder(width)
    return BahdanauDecoder(width, AdditiveAttention(width, width, hidden_dim=width, impl="reference"))
