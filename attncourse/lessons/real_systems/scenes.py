"""Pictures made by rule and described in words: a few digits, bold or thin, in the nine cells of a noisy image.

"a bold three, top left" is the sentence bold three top left. A question hides its first two words and asks for them: what
stands top left?
"""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attncourse._shared.validate import require

# Rows of a 5 x 7 font, from the top; the bits of a number are the pixels of a row.
_FONT = (
    (14, 17, 19, 21, 25, 17, 14),
    (4, 12, 4, 4, 4, 4, 14),
    (14, 17, 1, 2, 4, 8, 31),
    (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2),
    (31, 16, 30, 1, 1, 17, 14),
    (6, 8, 16, 30, 17, 17, 14),
    (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14),
    (14, 17, 17, 15, 1, 2, 12),
)
SIDE, CELL = 24, 8
NOISE = 0.15
WEIGHTS, ROWS, COLUMNS = ("thin", "bold"), ("top", "middle", "bottom"), ("left", "centre", "right")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HIDDEN = "?"
WORDS = (HIDDEN, *WEIGHTS, *DIGITS, *ROWS, *COLUMNS)
_INDEX = {word: i for i, word in enumerate(WORDS)}


def glyph(digit: int, *, bold: bool) -> Bool[Tensor, "7 w"]:
    """Return the pixels of a digit: 5 wide, or 6 where each stroke is twice as wide.

    Raises:
        ValueError: no digit.
    """
    require(0 <= digit <= 9, f"a digit must lie in 0..9, got {digit}")
    thin = torch.tensor([[bool(row >> (4 - x) & 1) for x in range(5)] for row in _FONT[digit]])
    if not bold:
        return thin
    wide = torch.nn.functional.pad(thin, (0, 1))
    return wide | wide.roll(1, dims=1)


@dataclass(frozen=True)
class Scenes:
    """Scenes are pictures without noise, 1 for ink and 0 for paper;
    how many digits each holds; the words and box of each digit.

    Rows of `words` and `boxes` behind `counts` are zeros.
    """

    images: Float[Tensor, "n y x"]
    counts: Int[Tensor, " n"]
    words: Int[Tensor, "n most 4"]
    boxes: Bool[Tensor, "n most y x"]


def draw_scenes(count: int, *, most: int, seed: int) -> Scenes:
    """Draw `count` pictures of 1..most digits, all different, in cells of their own.

    Raises:
        ValueError: no picture, or more digits than cells.
    """
    require(
        count >= 1 and 1 <= most <= 9, f"count must be at least 1 and most lie in 1..9, the cells, got {count}, {most}"
    )
    rng = random.Random(seed)
    images, counts = torch.zeros(count, SIDE, SIDE), torch.zeros(count, dtype=torch.long)
    words = torch.zeros(count, most, 4, dtype=torch.long)
    boxes = torch.zeros(count, most, SIDE, SIDE, dtype=torch.bool)
    for i in range(count):
        counts[i] = rng.randrange(1, most + 1)
        digits, cells = rng.sample(range(10), int(counts[i])), rng.sample(range(9), int(counts[i]))
        for j, (digit, cell) in enumerate(zip(digits, cells, strict=True)):
            (row, column), bold = divmod(cell, 3), rng.random() < 0.5
            pixels = glyph(digit, bold=bold)
            height, width = pixels.shape
            top, left = row * CELL + rng.randrange(CELL - 6), column * CELL + rng.randrange(CELL - 5)
            place = slice(top, top + height), slice(left, left + width)
            images[i][place], boxes[i, j][place] = pixels.float(), True
            sentence = (WEIGHTS[bold], DIGITS[digit], ROWS[row], COLUMNS[column])
            words[i, j] = torch.tensor([_INDEX[word] for word in sentence])
    return Scenes(images, counts, words, boxes)


@dataclass(frozen=True)
class Questions:
    """Questions are noisy pictures; sentences whose first two words are hidden;
    these words; the pixels of the digit that is meant.
    """

    images: Float[Tensor, "b y x"]
    words: Int[Tensor, "b 4"]
    answers: Int[Tensor, "b 2"]
    boxes: Bool[Tensor, "b y x"]


def draw_questions(scenes: Scenes, *, count: int, rng: torch.Generator) -> Questions:
    """Draw `count` questions, each about one digit of one picture, with fresh noise."""
    which = torch.randint(len(scenes.images), (count,), generator=rng)
    meant = (torch.rand(count, generator=rng) * scenes.counts[which]).long()
    noise = torch.randn(count, SIDE, SIDE, generator=rng)
    words = scenes.words[which, meant]
    hidden = torch.cat([torch.full((count, 2), _INDEX[HIDDEN]), words[:, 2:]], dim=1)
    return Questions(scenes.images[which] + NOISE * noise, hidden, words[:, :2], scenes.boxes[which, meant])


def all_different(questions: Questions, count: int) -> list[int]:
    """Return the first `count` questions of which no two ask for the same digit, or about the same place."""
    chosen, digits, places = [], set(), set()
    for i, (answer, words) in enumerate(zip(questions.answers.tolist(), questions.words.tolist(), strict=True)):
        digit, place = answer[1], tuple(words[2:])
        if len(chosen) < count and digit not in digits and place not in places:
            chosen.append(i)
            digits.add(digit)
            places.add(place)
    return chosen
