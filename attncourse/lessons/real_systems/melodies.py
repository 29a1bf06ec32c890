"""Melodies made by rule: a few notes of different lengths with rests between them, as sound, as frames and as letters.

A sound becomes a spectrogram, one row of magnitudes per frame of a twentieth of a second, as speech does before a model
reads it (Radford et al. 2022, Whisper, https://arxiv.org/abs/2212.04356, section 2.2, with frames of a hundredth).
"""

import math
import random
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.validate import require

RATE, HOP, FRAMES = 4000, 200, 32  # samples per second, samples per frame, frames of a sound
PITCHES = {"C": 261.6, "D": 293.7, "E": 329.6, "F": 349.2, "G": 392.0, "A": 440.0, "B": 493.9}  # in hertz
PAD, BEGIN, END = 0, 1, 2
TOKENS = ("<pad>", "<begin>", "<end>", *PITCHES)
LOWEST, BINS = 16, 80  # the magnitudes that are kept: 160 to 950 Hz, in steps of RATE / (2 HOP) = 10 Hz
LOUDNESS, NOISE = 0.5, 0.5
MOST = 4


@dataclass(frozen=True)
class Melodies:
    """Melodies are sounds; the letters of each between BEGIN and END, then PAD; which note sounds in each frame.

    In `playing` the first note of a melody is 0, the next 1, and so on; silence is -1. `loudness` multiplies a melody's notes.
    """

    sounds: Float[Tensor, "n samples"]
    letters: Int[Tensor, "n t"]
    playing: Int[Tensor, "n frames"]
    loudness: Float[Tensor, "n 1"]


def draw_melodies(count: int, *, seed: int) -> Melodies:
    """Draw `count` melodies of 2 to 4 notes of 2 to 4 frames each, with a rest of 1 or 2 frames after each note.

    Each has a loudness of its own, and noise.

    Raises:
        ValueError: no melody.
    """
    require(count >= 1, f"count must be at least 1, got {count}")
    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    letters = torch.full((count, MOST + 2), PAD)
    playing = torch.full((count, FRAMES), -1)
    for letter, frames in zip(letters, playing, strict=True):
        notes = [rng.randrange(END + 1, len(TOKENS)) for _ in range(rng.randrange(2, MOST + 1))]
        letter[: len(notes) + 2] = torch.tensor([BEGIN, *notes, END])
        start = rng.randrange(3)
        for i in range(len(notes)):
            stop = start + rng.randrange(2, 5)
            frames[start:stop] = i
            start = stop + rng.randrange(1, 3)
    loudness = LOUDNESS + torch.rand(count, 1, generator=noise)
    sounds = loudness * play(letters, playing)
    return Melodies(sounds + NOISE * torch.randn(sounds.shape, generator=noise), letters, playing, loudness)


def play(letters: Int[Tensor, "n t"], playing: Int[Tensor, "n frames"]) -> Float[Tensor, "n samples"]:
    """Return the sound of notes, each a tone and, half as loud, the one of twice its frequency."""
    note = letters.gather(1, playing + 1)  # BEGIN where nothing plays
    hertz = torch.tensor([0.0] * (END + 1) + list(PITCHES.values()))[note].repeat_interleave(HOP, dim=1)
    phase = 2 * math.pi * (hertz.double() / RATE).cumsum(dim=1)
    return (torch.sin(phase) + 0.5 * torch.sin(2 * phase)).float() * (hertz > 0)


def with_another_note(melodies: Melodies, note: int) -> Float[Tensor, "n samples"]:
    """Return the sounds with one note played a letter higher, and all else, noise too, as before; B becomes C."""
    other = melodies.letters.clone()
    is_note = other[:, note + 1] > END
    first, count = END + 1, len(PITCHES)
    other[is_note, note + 1] = first + (other[is_note, note + 1] - first + 1) % count
    change = play(other, melodies.playing) - play(melodies.letters, melodies.playing)
    here = (melodies.playing == note).repeat_interleave(HOP, dim=1)  # later notes keep the phase that they had
    return melodies.sounds + melodies.loudness * change * here


def spectrogram(sounds: Float[Tensor, "n samples"]) -> Float[Tensor, "n frames bins"]:
    """Return log(1 + magnitude) at 80 frequencies for each frame; a window is two frames long."""
    window = torch.hann_window(2 * HOP, device=sounds.device)
    spectrum = torch.stft(sounds, 2 * HOP, hop_length=HOP, window=window, return_complex=True)
    return spectrum[:, LOWEST : LOWEST + BINS, :-1].abs().log1p().transpose(1, 2) - 2.0  # about centred


def as_letters(tokens: Int[Tensor, " t"]) -> str:
    """Return the letters before END, as one word."""
    names = [TOKENS[token] for token in tokens.tolist()]
    return "".join(names[: names.index("<end>")] if "<end>" in names else names)
