"""The smallest task that needs attention: at each noun of a sentence, say its colour, which stands two words later."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse.models.training import train

NOUNS = ["flag", "car", "door", "cup", "hat", "boat"]
COLOURS = ["blue", "red", "green", "white", "black"]
VOCABULARY = ["The", "the", "is", "and", *NOUNS, *COLOURS]
SENTENCE = "The flag is blue and the car is red"
NOUN_PLACES, COLOUR_PLACES = [1, 6], [3, 8]


def encode_words(words: str) -> Int[Tensor, " n"]:
    """Return the words' numbers in the vocabulary."""
    return torch.tensor([VOCABULARY.index(word) for word in words.split()])


def draw_sentences(count: int, rng: torch.Generator) -> tuple[Int[Tensor, "count 9"], Int[Tensor, "count 2"]]:
    """Return sentences of two clauses with random nouns and colours, and the two colours that the nouns should report."""
    sentences = encode_words(SENTENCE).repeat(count, 1)
    nouns = torch.randint(len(NOUNS), (count, 2), generator=rng)
    colours = torch.randint(len(COLOURS), (count, 2), generator=rng)
    sentences[:, NOUN_PLACES] = nouns + VOCABULARY.index(NOUNS[0])
    sentences[:, COLOUR_PLACES] = colours + VOCABULARY.index(COLOURS[0])
    return sentences, colours


class ColourReader(nn.Module):
    """One head of attention over words and places, then a linear map to the colours: no other path joins two words.

    Args:
        head_dim: width of queries and keys.
        scaled: whether scores are divided by the root of that width.
        d_model: width of words and values.
    """

    def __init__(self, head_dim: int = 32, *, scaled: bool = True, d_model: int = 32):
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), d_model)
        self.places = nn.Embedding(len(SENTENCE.split()), d_model)
        self.w_q = nn.Linear(d_model, head_dim, bias=False)
        self.w_k = nn.Linear(d_model, head_dim, bias=False)
        self.w_v = nn.Linear(d_model, d_model, bias=False)
        self.w_o = nn.Linear(d_model, d_model, bias=False)
        self.to_colour = nn.Linear(d_model, len(COLOURS))
        self.scale = head_dim**-0.5 if scaled else 1.0

    def embed(self, sentences: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Return each word's vector plus its place's."""
        return self.words(sentences) + self.places.weight[: sentences.shape[1]]

    def scores(self, sentences: Int[Tensor, "b n"]) -> Float[Tensor, "b n n"]:
        """Return the score of every pair of words."""
        x = self.embed(sentences)
        return self.w_q(x) @ self.w_k(x).mT * self.scale

    def forward(self, sentences: Int[Tensor, "b n"]) -> Float[Tensor, "b n colours"]:
        """Return, at every word, a logit per colour."""
        weights = self.scores(sentences).softmax(dim=-1)
        return self.to_colour(self.w_o(weights @ self.w_v(self.embed(sentences))))


def train_reader(*, seed: int, head_dim: int = 32, scaled: bool = True, steps: int = 300) -> ColourReader:
    """Return a reader of this seed, trained on sentences drawn fresh at every step."""
    torch.manual_seed(seed)
    reader = ColourReader(head_dim, scaled=scaled)

    def draw_loss(model, rng):
        sentences, colours = draw_sentences(64, rng)
        logits = model(sentences)[:, NOUN_PLACES]
        return nn.functional.cross_entropy(logits.flatten(0, 1), colours.flatten())

    train(reader, draw_loss, steps=steps, learning_rate=3e-3, seed=seed, progress=False)
    return reader


@torch.no_grad()
def share_right(reader: ColourReader, *, count: int = 500) -> float:
    """Return the share of nouns, in so many sentences drawn with another seed, that report their colour."""
    sentences, colours = draw_sentences(count, torch.Generator().manual_seed(12345))
    return (reader(sentences)[:, NOUN_PLACES].argmax(dim=-1) == colours).float().mean().item()
