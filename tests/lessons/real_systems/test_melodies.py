"""Melodies: what is drawn is what is heard, and a spectrogram shows it."""

import pytest
import torch

from attncourse.lessons.real_systems import melodies
from attncourse.lessons.real_systems.melodies import (
    BEGIN,
    BINS,
    END,
    FRAMES,
    HOP,
    LOWEST,
    MOST,
    PAD,
    PITCHES,
    RATE,
    TOKENS,
    as_letters,
    draw_melodies,
    play,
    spectrogram,
    with_another_note,
)


def test_letters_and_frames_tell_the_same_notes():
    drawn = draw_melodies(60, seed=0)
    assert drawn.sounds.shape == (60, FRAMES * HOP) and drawn.playing.shape == (60, FRAMES)
    for letters, playing in zip(drawn.letters.tolist(), drawn.playing, strict=True):
        end = letters.index(END)
        assert letters[0] == BEGIN and 2 <= end - 1 <= MOST and set(letters[end + 1 :]) <= {PAD}
        assert all(token > END for token in letters[1:end])
        runs, lengths = torch.unique_consecutive(playing, return_counts=True)
        sounding = runs >= 0
        assert runs[sounding].tolist() == list(range(end - 1))
        assert set(lengths[sounding].tolist()) <= {2, 3, 4}
        between = runs[1:-1] < 0 if runs[0] < 0 else runs[:-1] < 0
        assert between.sum() == end - 2  # a rest between any two notes


def test_a_note_is_the_tone_of_its_letter():
    for token, hertz in enumerate(PITCHES.values(), start=END + 1):
        letters = torch.tensor([[BEGIN, token, END]])
        playing = torch.full((1, FRAMES), -1)
        playing[0, 8:24] = 0
        sound = play(letters, playing)
        assert not sound[0, : 8 * HOP].any() and not sound[0, 24 * HOP :].any()
        frames = spectrogram(sound)
        assert frames.shape == (1, FRAMES, BINS)
        loudest = (int(frames[0, 16].argmax()) + LOWEST) * RATE / (2 * HOP)
        assert abs(loudest - hertz) <= 10
        assert frames[0, 16].max() > frames[0, 2].max() + 1


def test_a_spectrogram_is_the_fourier_transform_of_overlapping_windows():
    sound = torch.randn(1, FRAMES * HOP, generator=torch.Generator().manual_seed(0)).double()
    frames, window = spectrogram(sound.float())[0], torch.hann_window(2 * HOP).double()
    for i in (1, 7, 30):
        piece = sound[0, (i - 1) * HOP : (i + 1) * HOP] * window
        n = torch.arange(2 * HOP).double()
        for bin in (LOWEST, LOWEST + 33):
            turn = torch.polar(torch.ones(2 * HOP).double(), -2 * torch.pi * bin * n / (2 * HOP))
            wanted = (piece * turn).sum().abs().log1p() - 2
            assert frames[i, bin - LOWEST].item() == pytest.approx(wanted.item(), abs=1e-4)


def test_a_replaced_note_is_another_tone_and_nothing_else_changes():
    drawn = draw_melodies(40, seed=3)
    for note in range(MOST):
        moved = (with_another_note(drawn, note) - drawn.sounds).view(40, FRAMES, HOP)
        loud = moved.abs().amax(dim=-1) > 1e-3
        assert torch.equal(loud, drawn.playing == note)
    letters = drawn.letters.clone()
    letters[:, 1] = torch.where(letters[:, 1] == len(TOKENS) - 1, END + 1, letters[:, 1] + 1)
    quiet = drawn.sounds - drawn.loudness * play(drawn.letters, drawn.playing)  # the noise
    first = (drawn.playing == 0).repeat_interleave(HOP, dim=1)
    wanted = quiet + drawn.loudness * play(letters, drawn.playing)
    torch.testing.assert_close(with_another_note(drawn, 0)[first], wanted[first], rtol=0, atol=1e-5)


def test_seeds_differ_and_repeat():
    one, again, other = draw_melodies(3, seed=1), draw_melodies(3, seed=1), draw_melodies(3, seed=2)
    assert torch.equal(one.sounds, again.sounds) and not torch.equal(one.sounds, other.sounds)


def test_letters_end_before_end():
    tokens = torch.tensor([TOKENS.index("G"), TOKENS.index("A"), END, PAD])
    assert as_letters(tokens) == "GA" and as_letters(tokens[:2]) == "GA"


@pytest.mark.bad_input
def test_no_melody_is_named():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        melodies.draw_melodies(0, seed=0)
