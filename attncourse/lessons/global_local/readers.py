"""Readers of long documents, trained on the chapter's two tasks: by windows, with global tokens, and by full attention."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from attncourse.models.training import one_thread, train

from .documents import (
    DOCUMENT_VOCABULARY,
    RECALL_VOCABULARY,
    TOPICS,
    VALUES,
    DocumentEncoder,
    draw_documents,
    draw_recall,
)

LENGTH, FAR, RADIUS = 64, 16, 4  # of a document with a topic
LOOKUP_LENGTH, GAP = 40, 10


@dataclass(frozen=True)
class Reader:
    """A reader is what two layers may see: windows of a radius (None: everything), and global tokens beside them.

    Attributes:
        shared: whether global tokens read through the matrices of all others.
    """

    radius: int | None
    global_tokens: tuple[int, ...] = ()
    shared: bool = False

    def build(self, vocabulary: int, outputs: int, length: int, *, seed: int) -> DocumentEncoder:
        """Return an untrained encoder of width 32 that reads so."""
        torch.manual_seed(seed)
        return DocumentEncoder(
            vocabulary, outputs, radii=(self.radius or length,) * 2, context=length, n_heads=2, impl="reference",
            global_indices=self.global_tokens, shared=self.shared,
        )  # fmt: skip


TOPIC_READERS = {
    "local": Reader(RADIUS),
    "one global token": Reader(RADIUS, (0,)),
    "one global token, shared matrices": Reader(RADIUS, (0,), shared=True),
    "full attention": Reader(None),
}
LOOKUP_READERS = {
    "one global token": Reader(RADIUS, (0,)),
    "four global tokens": Reader(RADIUS, (0, 19, 20, 21)),  # three stand in the gap, where nothing is told or asked
    "full attention": Reader(None),
}


def train_topic(reader: Reader, *, seed: int, steps: int = 200) -> DocumentEncoder:
    """Train a reader to name the topic of a document at token 0."""
    model = reader.build(DOCUMENT_VOCABULARY, TOPICS, LENGTH, seed=seed)

    def draw_loss(model, rng):
        tokens, topics = draw_documents(16, LENGTH, far=FAR, rng=rng)
        return cross_entropy(model(tokens)[:, 0], topics)

    with one_thread():
        train(model, draw_loss, steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return model


@torch.no_grad()
def topics_right(model: DocumentEncoder) -> float:
    """Return the share of 500 unmet documents whose topic is named."""
    tokens, topics = draw_documents(500, LENGTH, far=FAR, rng=torch.Generator().manual_seed(99))
    return (model(tokens)[:, 0].argmax(dim=-1) == topics).float().mean().item()


def answers(model: DocumentEncoder, count: int, *, pairs: int, rng: torch.Generator):
    """Return a model's logits at the questions of so many rows, (count, pairs, values), and the values that are right."""
    tokens, asked, values = draw_recall(count, LOOKUP_LENGTH, pairs=pairs, gap=GAP, rng=rng)
    return model(tokens).gather(1, asked[..., None].expand(-1, -1, VALUES)), values


def train_lookup(reader: Reader, *, pairs: int, seed: int, steps: int = 160) -> DocumentEncoder:
    """Train a reader to give the value of each name that is asked for."""
    model = reader.build(RECALL_VOCABULARY, VALUES, LOOKUP_LENGTH, seed=seed)

    def draw_loss(model, rng):
        logits, values = answers(model, 24, pairs=pairs, rng=rng)
        return cross_entropy(logits.flatten(0, 1), values.flatten())

    with one_thread():
        train(model, draw_loss, steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return model


@torch.no_grad()
def values_right(model: DocumentEncoder, *, pairs: int) -> float:
    """Return the share of the questions of 400 unmet rows that are answered with the right value."""
    logits, values = answers(model, 400, pairs=pairs, rng=torch.Generator().manual_seed(9))
    return (logits.argmax(dim=-1) == values).float().mean().item()


def most_common_right(pairs: int, *, rows: int = 20_000) -> float:
    """Return how often one is right who knows which values were told, not of which name, and says the most common."""
    _, _, values = draw_recall(rows, LOOKUP_LENGTH, pairs=pairs, gap=GAP, rng=torch.Generator().manual_seed(0))
    told = (values[..., None] == torch.arange(VALUES)).sum(dim=1)
    return told.amax(dim=1).float().mean().item() / pairs
