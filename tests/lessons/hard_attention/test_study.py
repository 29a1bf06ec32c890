"""The study records of every way what became of each reader, and of stuck ones what they look at."""

import torch

from attncourse.lessons.hard_attention import study


def test_every_reader_is_recorded(monkeypatch):
    monkeypatch.setattr(study, "MODELS", 2)
    found = study.measure(runs=2, steps=10)
    assert found.keys() == study.WAYS.keys()
    for results in found.values():
        assert len(results["accuracy"]) == len(results["steps to 0.95"]) == 4
        assert results["steps to 0.95"] == [None] * 4  # ten steps are too few
        looks = torch.tensor(results["weight on the needle, of readers below 0.95"])
        assert looks.shape == (4, 8) and looks.min() >= 0 and looks.max() <= 1
