"""What the chapter and its study measure is measured as they say; a few steps of training are enough for that."""

import pytest
import torch

from attncourse.lessons.real_systems import melodies, recipes, study


def test_a_share_is_of_all():
    assert recipes.share(torch.tensor([True, False, False, True])) == 0.5


def test_the_middle_character_is_hidden_and_asked_for():
    windows, answers = recipes.draw_hidden(50, held_out=True, rng=torch.Generator().manual_seed(0))
    assert (windows[:, recipes.AROUND] == recipes.HIDDEN).all() and (windows == recipes.HIDDEN).sum() == 50
    assert (answers < recipes.VOCABULARY).all()


@pytest.mark.parametrize("side", recipes.SIDES)
def test_one_side_is_all_that_a_filler_reads(side):
    model = recipes.train_filler(side, steps=1)
    windows, _ = recipes.draw_hidden(3, held_out=True, rng=torch.Generator().manual_seed(0))
    for place in (0, 10):
        moved = windows.clone()
        moved[:, place] = (moved[:, place] + 1) % recipes.VOCABULARY
        with torch.no_grad():
            same = torch.equal(recipes.fill(model, windows, side), recipes.fill(model, moved, side))
        assert same == (side == ("right side" if place == 0 else "left side"))


def test_tables_lose_what_counting_says():
    single, pairs = recipes.losses_of_tables().values()
    assert 2.0 < pairs < single < 4.0


def test_a_month_is_known_by_its_name():
    assert [recipes.is_month(word) for word in ("march", "mar.", "the", "5")] == [True, True, False, False]


class Perfect(torch.nn.Module):
    """It knows the letters, and looks at the first frame."""

    def __init__(self, letters):
        super().__init__()
        self.letters = letters

    def forward(self, frames, letters):
        t = letters.shape[1]
        silent = (frames == 0).flatten(1).all(dim=1)
        right = torch.nn.functional.one_hot(self.letters[:, 1 : t + 1], len(melodies.TOKENS)).float()
        return right * ~silent[:, None, None]

    def weights_on_pieces(self, frames, letters):
        weights = torch.zeros(len(frames), 1, letters.shape[1], frames.shape[1])
        weights[..., 0] = 1.0
        return weights


def test_melodies_are_judged_by_all_their_letters_and_looks_by_the_notes_frames():
    _, _, test, _ = recipes.melodies_to_hear()
    found = recipes.measure_melodies(Perfect(test.letters))
    assert found["right"] == 1.0 and found["right without the sound"] == 0.0 and found["weight on frames"] == 1.0
    first = (test.playing[:, 0] == 0).sum() / (test.letters > melodies.END).sum()
    assert found["weight on the note"] == pytest.approx(first.item()) == found["most on the note"]
    assert 2 / melodies.FRAMES < found["note among the frames"] < 4 / melodies.FRAMES


class HearsTheLoudest(torch.nn.Module):
    """It writes, as letter i, the pitch that is loudest in the frames of note i, which it is told."""

    def __init__(self, playing, letters):
        super().__init__()
        self.playing, self.letters = playing, letters

    def forward(self, frames, letters):
        i = letters.shape[1] - 1
        here = (self.playing == i)[..., None]
        bins = torch.tensor([hertz / 10 - melodies.LOWEST for hertz in melodies.PITCHES.values()]).round().long()
        heard = (frames * here).sum(dim=1)[:, bins].argmax(dim=-1) + melodies.END + 1
        return torch.nn.functional.one_hot(heard, len(melodies.TOKENS)).float()[:, None].expand(-1, i + 1, -1)


def test_a_model_that_hears_each_note_alone_changes_that_letter_alone():
    _, _, test, _ = recipes.melodies_to_hear()
    shares = recipes.changed_letters(HearsTheLoudest(test.playing, test.letters))
    assert (shares.diagonal() > 0.9).all() and (shares - shares.diag().diag() == 0).all()


def test_the_more_passages_the_more_often_the_right_one_is_among_them():
    found = list(recipes.found_by_search().values())
    assert found == sorted(found) and found[-1] > 0.9


def test_the_study_records_each_measure_of_each_system_per_seed(monkeypatch):
    systems = {"a": lambda seed: {"x": seed + 0.12344}, "b": lambda seed: {"y": 2.0 * seed}}
    monkeypatch.setattr(study, "systems", lambda: systems)
    assert study.study(2) == {"a": {"x": [0.1234, 1.1234]}, "b": {"y": [0.0, 2.0]}}
