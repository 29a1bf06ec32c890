"""Reading what was looked up: cloze questions about the documentation, a search for passages, and a reader of them.

The search is BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", equation 3.15). The reader encodes
question and passages apart and lets the hidden word attend to all passages at once, as Fusion-in-Decoder does (Izacard
and Grave 2020, https://arxiv.org/abs/2007.01282); its weights are the answer, as in a pointer network (Vinyals et al.
2015, https://arxiv.org/abs/1506.03134), so that it can say words which it never met in training.
"""

import re
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse.models.blocks import Stack
from attncourse.models.text import is_held_out, read_topics
from attncourse.multi_head import MultiHeadAttention

PAD, HIDDEN = 0, 1
LONGEST, SHORTEST = 32, 12  # words of a passage
MIDDLE = 4  # place of the hidden word among the nine of a question
RADIUS = 2
_WORD = re.compile(r"[A-Za-z_]+|\d+|[^\w\s]")


def read_words(text: str) -> list[str]:
    """Return the words, numbers and single marks of a text."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class Passages:
    """Passages are pieces of a text as words and as tokens, whether each is held out,
    and the token of each word in small letters.
    """

    words: list[list[str]]
    tokens: Int[Tensor, "n s"]
    lengths: Int[Tensor, " n"]
    held_out: Bool[Tensor, " n"]
    vocabulary: dict[str, int]

    @property
    def tokens_in_all(self) -> int:
        """Return how many tokens there are, PAD and HIDDEN included."""
        return 2 + len(self.vocabulary)


def make_passages(words: list[list[str]], held_out: list[bool]) -> Passages:
    """Make passages of these words, held out or not; tokens come in the order of their words, behind PAD and HIDDEN."""
    known = dict.fromkeys(word.lower() for piece in words for word in piece)
    vocabulary = {word: i for i, word in enumerate(known, start=2)}
    tokens = [torch.tensor([vocabulary[word.lower()] for word in piece]) for piece in words]
    padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    return Passages(words, padded, torch.tensor([len(piece) for piece in words]), torch.tensor(held_out), vocabulary)


def read_passages() -> Passages:
    """Read all paragraphs of all topics, cut into pieces of at most 32 words; what is shorter than 12 is left out."""
    words, held_out = [], []
    for topic, paragraphs in read_topics().items():
        for paragraph in paragraphs:
            whole = read_words(paragraph)
            pieces = [whole[i : i + LONGEST] for i in range(0, len(whole), LONGEST)]
            words += [piece for piece in pieces if len(piece) >= SHORTEST]
            held_out += [is_held_out(topic)] * (len(words) - len(held_out))
    return make_passages(words, held_out)


@dataclass(frozen=True)
class Cloze:
    """A cloze is sentences (b, 9) whose middle word is hidden, that word, and the passage that each was taken from."""

    tokens: Int[Tensor, "b 9"]
    answers: Int[Tensor, " b"]
    homes: Int[Tensor, " b"]


def draw_cloze(passages: Passages, *, count: int, held_out: bool, rng: torch.Generator) -> Cloze:
    """Draw `count` questions about passages of topics to train on, or of those held out, and ask for words of four
    letters or more.
    """
    asked = [
        (i, j)
        for i in (passages.held_out == held_out).nonzero()[:, 0].tolist()
        for j in range(MIDDLE, len(passages.words[i]) - MIDDLE)
        if len(passages.words[i][j]) >= 4 and passages.words[i][j].isalpha()
    ]
    homes, middles = torch.tensor(asked)[torch.randint(len(asked), (count,), generator=rng)].T
    tokens = passages.tokens[homes[:, None], middles[:, None] + torch.arange(-MIDDLE, MIDDLE + 1)]
    answers = tokens[:, MIDDLE].clone()
    tokens[:, MIDDLE] = HIDDEN
    return Cloze(tokens, answers, homes)


def count_words(tokens: Int[Tensor, "b n"], *, tokens_in_all: int) -> Float[Tensor, "b words"]:
    """Return how often each of the tokens occurs in each row; padding and hidden words do not count."""
    ones = torch.ones_like(tokens, dtype=torch.float32)
    counts = ones.new_zeros(len(tokens), tokens_in_all).scatter_add_(1, tokens, ones)
    counts[:, [PAD, HIDDEN]] = 0.0
    return counts


def bm25_weights(counts: Float[Tensor, "n words"], *, k1: float = 1.2, b: float = 0.75) -> Float[Tensor, "n words"]:
    """Return what each word of a query adds to the score of each passage.

    A word counts for more the fewer passages hold it, and for less each time it is repeated; long passages have to
    match more. With the usual factor k1 + 1, and Lucene's logarithm, which is never negative.

    Args:
        k1: how long repetitions go on counting: 0 for not at all.
        b: how much a passage's length is held against it, 0 to 1.
    """
    n, lengths = len(counts), counts.sum(dim=1, keepdim=True)
    holding = (counts > 0).sum(dim=0)
    rarity = torch.log1p((n - holding + 0.5) / (holding + 0.5))
    return rarity * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / lengths.mean()))


def retrieve(
    queries: Int[Tensor, "b n"], weights: Float[Tensor, "passages words"], *, top: int
) -> Int[Tensor, "b top"]:
    """Return the `top` best passages of each query, best first."""
    return (count_words(queries, tokens_in_all=weights.shape[1]) @ weights.T).topk(top, dim=1).indices


def near(n: int, *, radius: int, device=None) -> Bool[Tensor, "n n"]:
    """Return pairs of places at most `radius` apart."""
    places = torch.arange(n, device=device)
    return (places - places[:, None]).abs() <= radius


class Reader(nn.Module):
    """A question's hidden word looks at all words of all passages; what it looks at is the answer.

    Inside question and passages a word looks at two words on either side, so that from the first step on it is known by
    its neighbours. With all words in sight it drowns among them, and a short training never finds out.

    Args:
        tokens_in_all: how many tokens there are, PAD and HIDDEN included.
        d_model, n_heads: as in `MultiHeadAttention`.
    """

    def __init__(self, tokens_in_all: int, *, d_model: int = 64, n_heads: int = 4):
        super().__init__()
        self.embed = nn.Embedding(tokens_in_all, d_model, padding_idx=PAD)
        self.stack = Stack(d_model, n_heads, n_layers=1, context=LONGEST)
        self.point = MultiHeadAttention(d_model, 1, bias=False, impl="reference")

    def forward(
        self, questions: Int[Tensor, "b 9"], passages: Int[Tensor, "b p s"], lengths: Int[Tensor, "b p"]
    ) -> Float[Tensor, "b p s"]:
        """Return weights over the words of the p passages of each question: they sum to 1 over all of them."""
        (p, s), device = passages.shape[1:], passages.device
        around = near(questions.shape[1], radius=RADIUS, device=device)
        asking = self.stack(self.embed(questions), mask=around)[:, MIDDLE, None]
        flat, flat_lengths = rearrange(passages, "b p s -> (b p) s"), rearrange(lengths, "b p -> (b p)")
        features = self.stack(self.embed(flat), lengths=flat_lengths, mask=near(s, radius=RADIUS, device=device))
        # Side by side the passages are one context, with holes where each of them is padded.
        exists = torch.arange(s, device=device) < lengths[..., None]
        _, weights = self.point(
            asking,
            rearrange(features, "(b p) s d -> b (p s) d", p=p),
            mask=rearrange(exists, "b p s -> b 1 1 (p s)"),
            need_weights=True,
        )
        return rearrange(weights, "b 1 1 (p s) -> b p s", p=p)


def pointer_loss(
    weights: Float[Tensor, "b p s"], passages: Int[Tensor, "b p s"], answers: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return mean negative logarithm of the weight on the answer, wherever in the passages it stands."""
    on_answer = (weights * (passages == answers[:, None, None])).sum(dim=(1, 2))
    # A question whose passages lack the answer teaches nothing; the bound keeps its loss finite.
    return -on_answer.clamp_min(1e-6).log().mean()


def read_answers(weights: Float[Tensor, "b p s"], passages: Int[Tensor, "b p s"]) -> Int[Tensor, " b"]:
    """Return the word that all its occurrences together give the most weight."""
    words, flat = rearrange(passages, "b p s -> b (p s)"), rearrange(weights, "b p s -> b (p s)")
    totals = einsum((words[:, :, None] == words[:, None]).to(flat), flat, "b i j, b j -> b i")
    return words.gather(1, totals.argmax(dim=1, keepdim=True))[:, 0]
