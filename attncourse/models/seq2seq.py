"""Sequence to sequence with GRUs: through one fixed vector, or with an attention over the source.

Without attention: Cho et al. 2014, https://arxiv.org/abs/1406.1078, and Sutskever, Vinyals and Le 2014,
https://arxiv.org/abs/1409.3215. With: the two ways in which attention entered, Bahdanau's (the previous state asks, and
what is read enters the next) and Luong's (the current state asks, and what is read joins it on the way out).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attncourse._shared.validate import require


class Encoder(nn.Module):
    """The encoder is a bidirectional GRU: one annotation of each source token, from both of its sides."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        require(width % 2 == 0, f"width must be even, a half for each direction, got {width}")
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.gru = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, embedded: Float[Tensor, "b s d"], lengths: Int[Tensor, " b"]):
        """Return annotations (b, s, d) and the last states of both directions side by side (b, d).

        Raises:
            ValueError: a source is empty.
        """
        require(int(lengths.min()) >= 1, f"every source needs a token, got lengths {lengths.tolist()}")
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        annotations, last = self.gru(packed)
        annotations, _ = pad_packed_sequence(annotations, batch_first=True, total_length=embedded.shape[1])
        return annotations, torch.cat([last[0], last[1]], dim=-1)


class FixedVectorDecoder(nn.Module):
    """Everything it knows of the source is the encoder's last state: its first state, and part of every input."""

    def __init__(self, width: int):
        super().__init__()
        self.gru = nn.GRU(2 * width, width, batch_first=True)
        self.read_out = nn.Linear(2 * width, width)

    def start(self, summary: Float[Tensor, "b d"]):
        """Return the state before the first token: hidden state and the source's one vector."""
        return summary, summary

    def forward(
        self,
        embedded: Float[Tensor, "b t d"],
        state,
        memory: Float[Tensor, "b s d"],
        lengths: Int[Tensor, " b"] | None,
        first_position: int = 0,
    ):
        """Return features (b, t, d), the next state, and no weights."""
        hidden, summary = state
        source = summary[:, None].expand(-1, embedded.shape[1], -1)
        states, last = self.gru(torch.cat([embedded, source], dim=-1), hidden[None].contiguous())
        return torch.tanh(self.read_out(torch.cat([states, source], dim=-1))), (last[0], summary), None


class BahdanauDecoder(nn.Module):
    """The previous state asks; the context that it reads is part of the next step's input (Bahdanau et al. 2014)."""

    def __init__(self, width: int, attention: nn.Module):
        super().__init__()
        self.attention = attention
        self.cell = nn.GRUCell(2 * width, width)
        self.read_out = nn.Linear(3 * width, width)

    def start(self, summary: Float[Tensor, "b d"]):
        """Return the state before the first token."""
        return summary

    def forward(
        self,
        embedded: Float[Tensor, "b t d"],
        state,
        memory: Float[Tensor, "b s d"],
        lengths: Int[Tensor, " b"] | None,
        first_position: int = 0,
    ):
        """Return features (b, t, d), the next state, and the alignments (b, t, s)."""
        states, contexts, alignments = [], [], []
        for i, token in enumerate(embedded.unbind(dim=1)):
            context, weights = _ask(self.attention, state[:, None], memory, lengths, first_position + i)
            state = self.cell(torch.cat([token, context[:, 0]], dim=-1), state)
            states.append(state)
            contexts.append(context)
            alignments.append(weights)
        read = torch.cat([torch.stack(states, dim=1), torch.cat(contexts, dim=1), embedded], dim=-1)
        return torch.tanh(self.read_out(read)), state, torch.cat(alignments, dim=1)


class LuongDecoder(nn.Module):
    """The current state asks; state and context become the attentional state tanh(W [c; h]) (Luong et al. 2015).

    With input feeding (section 3.3 there) the attentional state is part of the next step's input, and steps must be
    taken one after another; without it the GRU runs first and all queries ask at once.
    """

    def __init__(self, width: int, attention: nn.Module, *, input_feeding: bool = False):
        super().__init__()
        self.attention, self.input_feeding = attention, input_feeding
        self.gru = nn.GRU(2 * width if input_feeding else width, width, batch_first=True)
        self.combine = nn.Linear(2 * width, width)

    def start(self, summary: Float[Tensor, "b d"]):
        """Return the state before the first token: hidden state and the attentional state to feed."""
        return summary, torch.zeros_like(summary)

    def forward(
        self,
        embedded: Float[Tensor, "b t d"],
        state,
        memory: Float[Tensor, "b s d"],
        lengths: Int[Tensor, " b"] | None,
        first_position: int = 0,
    ):
        """Return features (b, t, d), the next state, and the alignments (b, t, s)."""
        if not self.input_feeding:
            return self._steps(embedded, state, memory, lengths, first_position)
        features, alignments = [], []
        for i in range(embedded.shape[1]):
            fed = torch.cat([embedded[:, i : i + 1], state[1][:, None]], dim=-1)
            feature, state, weights = self._steps(fed, state, memory, lengths, first_position + i)
            features.append(feature)
            alignments.append(weights)
        return torch.cat(features, dim=1), state, torch.cat(alignments, dim=1)

    def _steps(self, inputs, state, memory, lengths, first_position):
        states, last = self.gru(inputs, state[0][None].contiguous())
        context, weights = _ask(self.attention, states, memory, lengths, first_position)
        features = torch.tanh(self.combine(torch.cat([context, states], dim=-1)))
        return features, (last[0], features[:, -1]), weights


def _ask(attention, query, memory, lengths, first_position):
    """Return contexts and alignments. Only multiplicative attention knows positions, and only its local_m needs them."""
    where = {}
    if getattr(attention, "locality", None) == "local_m":
        where["positions"] = torch.arange(first_position, first_position + query.shape[1], device=query.device)
    return attention(query, memory, key_lengths=lengths, need_weights=True, **where)


class Seq2Seq(nn.Module):
    """The model is an encoder, a decoder of one of the three kinds above, and a softmax over the target's characters.

    A decoder takes `lengths` None where no source of the batch is padded, and `first_position`, the time step of the
    first of its tokens.

    Args:
        source_vocabulary, target_vocabulary: how many tokens there are on either side; token 0 is padding.
        width: d, of embeddings, annotations and states; even.
        decoder: what turns embedded target tokens and the source into features.
    """

    def __init__(self, source_vocabulary: int, target_vocabulary: int, *, width: int, decoder: nn.Module):
        super().__init__()
        self.encoder = Encoder(source_vocabulary, width)
        self.embed = nn.Embedding(target_vocabulary, width, padding_idx=0)
        self.decoder = decoder
        self.to_vocabulary = nn.Linear(width, target_vocabulary)

    def forward(
        self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"], target_in: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t n"]:
        """Return logits of the next target token at every step, given the right ones before it (teacher forcing)."""
        return self.from_embedded(self.encoder.embed(source), lengths, target_in)

    def from_embedded(
        self, embedded: Float[Tensor, "b s d"], lengths: Int[Tensor, " b"], target_in: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t n"]:
        """Return the same from embedded sources, whose gradients tell which source token matters."""
        memory, summary, lengths = self._encode(embedded, lengths)
        features, _, _ = self.decoder(self.embed(target_in), self.decoder.start(summary), memory, lengths)
        return self.to_vocabulary(features)

    def _encode(self, embedded, lengths):
        """Return annotations, summary, and the lengths to mask with:
        None where nothing is padded, which saves every mask.
        """
        memory, summary = self.encoder(embedded, lengths)
        return memory, summary, None if int(lengths.min()) == embedded.shape[1] else lengths

    @torch.no_grad()
    def decode_greedy(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"], *, begin: int, steps: int):
        """Return `steps` most likely tokens (b, steps), and the alignments (b, steps, s), or None without attention."""
        memory, summary, lengths = self._encode(self.encoder.embed(source), lengths)
        state = self.decoder.start(summary)
        token, tokens, alignments = torch.full((len(source), 1), begin, device=source.device), [], []
        for i in range(steps):
            features, state, weights = self.decoder(self.embed(token), state, memory, lengths, i)
            token = self.to_vocabulary(features).argmax(dim=-1)
            tokens.append(token)
            alignments.append(weights)
        return torch.cat(tokens, dim=1), None if alignments[0] is None else torch.cat(alignments, dim=1)
