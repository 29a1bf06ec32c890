"""Real text without a download: the documentation that ships with every Python, `pydoc_data.topics`, as characters.

The text differs between versions of Python, so nothing may rely on its exact content. Topics quote each other at
length; each paragraph counts once, so that what is held out does not stand in the training text.
"""

import functools
import pydoc_data.topics
import re
import zlib

import torch
from jaxtyping import Int
from torch import Tensor

from attncourse._shared.validate import require

PAD = "<pad>"
# The printable characters of ASCII; a newline ends a paragraph.
CHARACTERS = (PAD, "\n", *map(chr, range(32, 127)))
_INDEX = {character: i for i, character in enumerate(CHARACTERS)}
_TO_ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "..."})
_UNDERLINE = re.compile(r"[*=~^-]{4,}")


def _paragraphs(text: str) -> list[str]:
    """Return each paragraph as one line, without the underlining of headings;
    characters that the tokenizer lacks become '?'.
    """
    lines = []
    for block in re.split(r"\n\s*\n", text):
        words = [word for word in block.split() if not _UNDERLINE.fullmatch(word)]
        if words:
            lines.append("".join(c if c in _INDEX else "?" for c in " ".join(words).translate(_TO_ASCII)))
    return lines


@functools.cache
def read_topics() -> dict[str, tuple[str, ...]]:
    """Return paragraphs by the topic's name; one that several topics hold belongs to the shortest of them."""
    seen, topics = set(), {}
    for name, text in sorted(pydoc_data.topics.topics.items(), key=lambda item: (len(item[1]), item[0])):
        kept = tuple(p for p in dict.fromkeys(_paragraphs(text)) if p not in seen)
        seen.update(kept)
        if kept:
            topics[name] = kept
    return topics


def is_held_out(topic: str) -> bool:
    """Return whether a topic is kept from training: one in eight, by its name alone.
    Class 3 holds long topics and short ones.
    """
    return zlib.crc32(topic.encode()) % 8 == 3


def read_text(*, held_out: bool) -> str:
    """Return the topics to train on, or those held out, a paragraph per line."""
    kept = [paragraphs for name, paragraphs in read_topics().items() if is_held_out(name) == held_out]
    return "".join(f"{paragraph}\n" for paragraphs in kept for paragraph in paragraphs)


def encode(text: str) -> Int[Tensor, " n"]:
    """Return characters as integers.

    Raises:
        ValueError: a character is neither printable ASCII nor a newline.
    """
    unknown = sorted(set(text) - _INDEX.keys())
    require(not unknown, f"the tokenizer knows printable ASCII and the newline, got {unknown}")
    return torch.tensor([_INDEX[character] for character in text], dtype=torch.long)


def decode(tokens: Int[Tensor, " n"]) -> str:
    """Return integers as characters; padding vanishes."""
    return "".join(CHARACTERS[i] for i in tokens.tolist() if i != 0)


def draw_windows(
    tokens: Int[Tensor, " n"], *, count: int, length: int, rng: torch.Generator
) -> Int[Tensor, "count length"]:
    """Return `count` pieces of `length` neighbouring tokens, from places drawn uniformly.

    Raises:
        ValueError: count or length is below 1, or the text is shorter than a piece.
    """
    require(
        count >= 1 and 1 <= length <= len(tokens),
        f"count must be at least 1 and length lie in 1..{len(tokens)}, got {count}, {length}",
    )
    starts = torch.randint(len(tokens) - length + 1, (count, 1), generator=rng)
    return tokens[starts + torch.arange(length)]
