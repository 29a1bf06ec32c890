"""The course's first task: dates and numbers written out in words, to be written in digits. Made by rule.

"the fifth of march nineteen ninety eight" -> "1998-03-05"; "three hundred and seven" -> "307". A source may list
several, so that lengths spread widely. Sources are words and single digits; targets are characters.
"""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from attncourse._shared.validate import require

PAD, BEGIN, END = "<pad>", "<begin>", "<end>"

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
MONTHS = ("january february march april may june july august september october november december").split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
).split()


def number_in_words(n: int) -> list[str]:
    """Return a number 0 <= n < 10**6 in English words: 307201 is three hundred and seven thousand two hundred and one."""
    require(0 <= n < 10**6, f"a number must lie in 0..999999, got {n}")
    if n < 20:
        return [ONES[n]]
    if n < 100:
        return [TENS[n // 10 - 2], *([ONES[n % 10]] if n % 10 else [])]
    if n < 1000:
        return [ONES[n // 100], "hundred", *(["and", *number_in_words(n % 100)] if n % 100 else [])]
    rest = n % 1000
    joined = ["and"] if 0 < rest < 100 else []
    return [*number_in_words(n // 1000), "thousand", *joined, *(number_in_words(rest) if rest else [])]


def ordinal_in_words(day: int) -> list[str]:
    """Return a day 1 <= day <= 31 as an ordinal: 21 is twenty first."""
    require(1 <= day <= 31, f"a day must lie in 1..31, got {day}")
    if day <= 20:
        return [ORDINALS[day - 1]]
    return ["thirtieth"] if day == 30 else [TENS[day // 10 - 2], ORDINALS[day % 10 - 1]]


def year_in_words(year: int) -> list[str]:
    """Return a year of 1900..2099 as it is spoken: nineteen ninety eight, two thousand and five, twenty twenty four."""
    require(1900 <= year <= 2099, f"a year must lie in 1900..2099, got {year}")
    century, rest = divmod(year, 100)
    if year in range(2000, 2010):
        return ["two", "thousand", *(["and", ONES[rest]] if rest else [])]
    if rest == 0:
        return [*number_in_words(century), "hundred"]
    return [*number_in_words(century), *(["oh", ONES[rest]] if rest < 10 else number_in_words(rest))]


def date_in_words(year: int, month: int, day: int, form: int) -> list[str]:
    """Return one of four ways to write a date: two in words, two with digits."""
    name, digits = MONTHS[month - 1], list(str(year))
    forms = (
        ["the", *ordinal_in_words(day), "of", name, *year_in_words(year)],
        [name, "the", *ordinal_in_words(day), *year_in_words(year)],
        [name, *str(day), ",", *digits],
        [*str(day), name[:3] + ".", *digits],
    )
    return forms[form]


@dataclass(frozen=True)
class Example:
    """An example is a source of words and the characters it should become."""

    source: tuple[str, ...]
    target: str


def draw_example(rng: random.Random, *, items: int) -> Example:
    """Return a list of `items` dates and numbers, written out, and its digits."""
    sources, targets = [], []
    for _ in range(items):
        if rng.random() < 0.5:
            year, month, day = rng.randrange(1900, 2100), rng.randrange(1, 13), rng.randrange(1, 29)
            sources.append(date_in_words(year, month, day, rng.randrange(4)))
            targets.append(f"{year}-{month:02}-{day:02}")
        else:
            n = rng.randrange(10 ** rng.randrange(1, 7))
            sources.append(number_in_words(n))
            targets.append(str(n))
    words = [word for i, source in enumerate(sources) for word in ([";", *source] if i else source)]
    return Example(tuple(words), ";".join(targets))


def draw_examples(count: int, *, most_items: int, seed: int, without: frozenset[str] = frozenset()) -> list[Example]:
    """Return `count` examples of 1..most_items items, none of whose targets is in `without`:
    a held-out set is held out.
    """
    require(count >= 1 and most_items >= 1, f"count and most_items must be at least 1, got {count}, {most_items}")
    rng, drawn = random.Random(seed), []
    while len(drawn) < count:
        example = draw_example(rng, items=rng.randrange(1, most_items + 1))
        if example.target not in without:
            drawn.append(example)
    return drawn


def _all_words() -> list[str]:
    marks = ["the", "of", "and", "oh", "hundred", "thousand", "thirtieth", ",", ";"]
    return [*ONES, *TENS, *MONTHS, *(m[:3] + "." for m in MONTHS), *ORDINALS, *marks, *"0123456789"]


SOURCE_VOCABULARY = (PAD, *dict.fromkeys(_all_words()))
TARGET_VOCABULARY = (PAD, BEGIN, END, *"0123456789-;")
_SOURCE_INDEX = {word: i for i, word in enumerate(SOURCE_VOCABULARY)}
_TARGET_INDEX = {character: i for i, character in enumerate(TARGET_VOCABULARY)}


@dataclass(frozen=True)
class Batch:
    """A batch holds padded integers: source (b, s) with lengths (b,),
    and target (b, t) that begins with BEGIN and ends with END.
    """

    source: Int[Tensor, "b s"]
    lengths: Int[Tensor, " b"]
    target: Int[Tensor, "b t"]


def make_batch(examples: list[Example]) -> Batch:
    """Return examples as integers, padded with 0.

    Raises:
        ValueError: a source holds a word that the task does not know.
    """
    unknown = {word for e in examples for word in e.source} - _SOURCE_INDEX.keys()
    require(not unknown, f"the task does not know the words {sorted(unknown)}")
    sources = [torch.tensor([_SOURCE_INDEX[word] for word in e.source]) for e in examples]
    targets = [torch.tensor([_TARGET_INDEX[c] for c in (BEGIN, *e.target, END)]) for e in examples]
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(source) for source in sources])
    return Batch(pad(sources, batch_first=True), lengths, pad(targets, batch_first=True))


def read_target(tokens: Int[Tensor, " t"]) -> str:
    """Return the characters up to END."""
    characters = [TARGET_VOCABULARY[i] for i in tokens.tolist()]
    kept = characters[: characters.index(END)] if END in characters else characters
    return "".join(c for c in kept if c not in (PAD, BEGIN))
