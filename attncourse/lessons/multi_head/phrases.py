"""Repeated phrases: a list of letters is read once, then pieces of it return, and a model has to continue each piece."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attncourse.models.decoder import DecoderLM
from attncourse.models.training import train

ALPHABET, LIST, PHRASE, PHRASES = 26, 8, 3, 6
LENGTH = LIST + PHRASE * PHRASES


def draw_phrases(count: int, *, rng: torch.Generator) -> tuple[Int[Tensor, "count n"], Bool[Tensor, "count m"]]:
    """Return texts of a list of different letters and phrases out of it, and after which letters the next is certain.

    The list is new in every text, so that no weight can know it.
    """
    letters = torch.rand(count, ALPHABET, generator=rng).argsort(dim=-1)[:, :LIST]
    starts = torch.randint(LIST - PHRASE + 1, (count, PHRASES, 1), generator=rng)
    phrases = (starts + torch.arange(PHRASE)).flatten(1)
    texts = torch.cat([letters, letters.gather(1, phrases)], dim=1)
    place = torch.arange(LENGTH - 1)
    certain = (place >= LIST) & ((place - LIST) % PHRASE < PHRASE - 1)
    return texts, certain.expand(count, -1)


def phrase_loss(model: DecoderLM, rng: torch.Generator) -> Tensor:
    """Return the mean cross-entropy in nats of the letters that are certain."""
    texts, certain = draw_phrases(64, rng=rng)
    return cross_entropy(model(texts[:, :-1])[certain], texts[:, 1:][certain])


def train_phrases(*, n_layers: int, seed: int, positions: str = "learned", steps: int = 400) -> DecoderLM:
    """Return a decoder with two heads per layer, trained to continue phrases."""
    torch.manual_seed(seed)
    model = DecoderLM(ALPHABET, d_model=64, n_heads=2, n_layers=n_layers, context=LENGTH, positions=positions)
    train(model, phrase_loss, steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return model


@torch.no_grad()
def share_continued(model: DecoderLM, *, without: Sequence[tuple[int, int]] = ()) -> float:
    """Return the share of certain letters that the model names in new texts, with heads (layer, head) silenced."""
    texts, certain = draw_phrases(256, rng=torch.Generator().manual_seed(1))
    heads = torch.ones(len(model.stack.blocks), 2)
    for layer, head in without:
        heads[layer, head] = 0.0
    named = model(texts[:, :-1], head_mask=heads).argmax(dim=-1)
    return (named == texts[:, 1:])[certain].float().mean().item()


def after_earlier(texts: Int[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """Return which keys stand right after an earlier occurrence of the query's letter."""
    before = torch.cat([torch.full_like(texts[:, :1], -1), texts[:, :-1]], dim=1)
    return (before[:, None, :] == texts[:, :, None]).tril()


def head_shares(model: DecoderLM) -> dict[str, list[float]]:
    """Return three shares of each head's weight in new texts, layer after layer.

    "previous" and "itself" are the shares on the letter before and on the own place, while the list is read. "induction"
    is the share on letters after an earlier occurrence of the query's own, where the next letter is certain.
    """
    texts, certain = draw_phrases(256, rng=torch.Generator().manual_seed(1))
    weights = model.attention_weights(texts)
    place = torch.arange(1, LIST)
    marked = (weights * after_earlier(texts)[None, :, None]).sum(dim=-1)[..., :-1]
    shares = {
        "previous": weights[..., place, place - 1].mean(dim=(1, 3)),
        "itself": weights[..., place, place].mean(dim=(1, 3)),
        "induction": marked.transpose(1, 2)[:, :, certain].mean(dim=-1),
    }
    return {name: share.flatten().tolist() for name, share in shares.items()}
