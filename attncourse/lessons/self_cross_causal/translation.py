"""A translation made by rule, in which words change places, and the smallest model that learns it: one cross-attention.

"this blue house" -> "rumah biru ini": in Indonesian noun, adjective and "this" stand in the opposite order.
"""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse.models.training import one_thread, train
from attncourse.softmax_attention import SoftmaxAttention

FIRST = {"this": "ini", "that": "itu"}
ADJECTIVES = {
    "blue": "biru", "green": "hijau", "black": "hitam", "white": "putih", "big": "besar", "small": "kecil",
}  # fmt: skip
NOUNS = {
    "house": "rumah", "book": "buku", "flag": "bendera", "door": "pintu", "flower": "bunga", "chair": "kursi",
    "dog": "anjing", "cat": "kucing",
}  # fmt: skip
WORDS = FIRST | ADJECTIVES | NOUNS
ENGLISH = tuple(WORDS)
INDONESIAN = ("<begin>", "<end>", *WORDS.values())


def translate(phrase: list[str]) -> list[str]:
    """Return the Indonesian of "this ADJECTIVE NOUN", by rule, and a word that ends it."""
    return [*(WORDS[word] for word in reversed(phrase)), "<end>"]


def phrases(*, held_out: bool) -> list[list[str]]:
    """Return the phrases to train on, or one in four, held out; each of their words occurs in training, too."""
    every = [[*words] for words in itertools.product(FIRST, ADJECTIVES, NOUNS)]
    return [phrase for i, phrase in enumerate(every) if ((i + i // len(NOUNS)) % 4 == 0) == held_out]


def to_integers(texts: list[list[str]], words: tuple[str, ...]) -> Int[Tensor, "b n"]:
    """Return the place of each word in the vocabulary `words`."""
    return torch.tensor([[words.index(word) for word in text] for text in texts])


class Translator(nn.Module):
    """The words written so far ask, the words of the source answer: one cross-attention between embeddings and logits.

    A word is its embedding plus a learned vector of its place. There is no self-attention on either side.
    """

    def __init__(self, d_model: int = 64):
        super().__init__()
        self.embed_source = nn.Embedding(len(ENGLISH), d_model)
        self.embed_target = nn.Embedding(len(INDONESIAN), d_model)
        self.places = nn.Parameter(torch.randn(2, 4, d_model))
        self.cross_attention = SoftmaxAttention(d_model, impl="reference")
        # Short queries make the first weights nearly equal: a softmax that begins at 0 and 1 has no gradient to learn by.
        with torch.no_grad():
            self.cross_attention.w_q.weight.mul_(0.3)
        self.to_vocabulary = nn.Linear(d_model, len(INDONESIAN))

    def forward(
        self, source: Int[Tensor, "b s"], written: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t n"], Float[Tensor, "b t s"]]:
        """Return logits of the word after each that was written, and the weights on the source's words."""
        memory = self.embed_source(source) + self.places[0, : source.shape[1]]
        x = self.embed_target(written) + self.places[1, : written.shape[1]]
        read, weights = self.cross_attention(x, memory, need_weights=True)
        return self.to_vocabulary(x + read), weights


@one_thread()
def train_translator(*, seed: int = 0, steps: int = 300) -> Translator:
    """Return a translator trained on batches of 32 phrases."""
    torch.manual_seed(seed)
    model = Translator()
    source, written, wanted = tensors(phrases(held_out=False))

    def draw_loss(model, rng):
        rows = torch.randint(len(source), (32,), generator=rng)
        logits, _ = model(source[rows], written[rows])
        return cross_entropy(logits.mT, wanted[rows])

    train(model, draw_loss, steps=steps, seed=seed)
    return model


def tensors(texts: list[list[str]]) -> tuple[Int[Tensor, "b s"], Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Return the sources, what is written before each Indonesian word, and the Indonesian words."""
    targets = [translate(text) for text in texts]
    before = [["<begin>", *target[:-1]] for target in targets]
    return to_integers(texts, ENGLISH), to_integers(before, INDONESIAN), to_integers(targets, INDONESIAN)
