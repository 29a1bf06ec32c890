"""The chapter's two models: one that writes text, and a clerk who is told facts and asked about them."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attncourse.grouped_query import GroupedQueryAttention
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.recall import draw_recall
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import one_thread, train
from attncourse.positions import RotaryEmbedding

WIDTH, HEADS, LAYERS = 64, 2, 2  # of the writer
NAMES, DIGITS = 10, 8  # what the clerk's facts are made of


def multi_head(width: int = WIDTH, heads: int = HEADS) -> GroupedQueryAttention:
    """Return causal multi-head attention with rotary positions: each head has keys and values of its own."""
    return GroupedQueryAttention(width, heads, n_kv_heads=heads, rope=RotaryEmbedding(width // heads))


def trained_writer(*, seed: int = 0, steps: int = 200) -> DecoderLM:
    """Return a decoder of two blocks that was trained on the documentation of Python, a character per token."""
    torch.manual_seed(seed)
    model = DecoderLM(len(CHARACTERS), d_model=WIDTH, n_layers=LAYERS, context=4096, attention=multi_head)
    text = encode(read_text(held_out=False))

    def text_loss(model, rng):
        return next_token_loss(model, draw_windows(text, count=16, length=96, rng=rng))

    with one_thread():
        train(model, text_loss, steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return model


def draw_facts(
    count: int, rng: torch.Generator, *, facts: int = 5
) -> tuple[Int[Tensor, "count facts_and_question"], Int[Tensor, " count"]]:
    """Draw rows of facts with a question behind them, and the right answers; a fact is one token, and so is a question."""
    drawn = draw_recall(count, n_pairs=facts, n_keys=NAMES, n_values=DIGITS, rng=rng)
    told = drawn.keys * DIGITS + drawn.values
    return torch.cat([told, NAMES * DIGITS + drawn.asked[:, None]], dim=1), drawn.answers


def trained_clerk(*, seed: int = 0, steps: int = 250) -> DecoderLM:
    """Return a model of one block that has learned to answer from one to nine facts."""

    def fact_loss(model, rng):
        tokens, answers = draw_facts(64, rng, facts=int(torch.randint(1, 10, (), generator=rng)))
        return cross_entropy(model(tokens)[:, -1, :DIGITS], answers)

    torch.manual_seed(seed)
    clerk = DecoderLM(
        NAMES * DIGITS + NAMES, d_model=32, n_layers=1, context=64, attention=lambda: multi_head(32, 2)
    )  # fmt: skip
    with one_thread():
        train(clerk, fact_loss, steps=steps, learning_rate=1e-2, seed=seed, progress=False)
    return clerk


def fact_in_words(token: int) -> str:
    """Return what a token of the clerk's says: "name 3 has digit 5", or a question."""
    if token < NAMES * DIGITS:
        return f"name {token // DIGITS} has {token % DIGITS}"
    return f"which digit has name {token - NAMES * DIGITS}?"
