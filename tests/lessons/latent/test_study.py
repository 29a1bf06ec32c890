"""The chapter's recorded studies: what they hold, and that their models are what they say."""

import torch

from attncourse.lessons.latent import study
from attncourse.lessons.latent.designs import DESIGNS, build
from attncourse.models.study import read_study


def test_designs_that_are_compared_cache_as_many_numbers():
    cached = {name: sum(f().cache_shape.widths) * f().cache_shape.n_kv_heads for name, f in DESIGNS.items()}
    assert cached == {
        "multi-head": 128, "grouped, 2 heads": 32, "latent, 16 + 16": 32, "latent, 24 + 8": 32, "multi-query": 16,
        "latent, 8 + 8": 16,
    }  # fmt: skip


def test_the_quality_study_has_every_design_and_seed():
    results = read_study(study.QUALITY).results
    assert list(results) == list(DESIGNS)
    assert all(len(losses) == len(study.QUALITY_SEEDS) and min(losses) > 1 for losses in results.values())


def test_the_conversion_study_has_every_rank_and_loses_nothing_at_the_full_one():
    results = read_study(study.CONVERSION).results
    assert list(results) == [str(seed) for seed in study.CONVERSION_SEEDS]
    for found in results.values():
        for measure in ("left out", "added"):
            for by_rank in found[measure].values():
                assert list(by_rank) == [str(rank) for rank in study.RANKS]
                assert abs(by_rank["64"]) < 1e-4
        assert max(found["directions"]) < min(found["directions before training"]) <= 64
        assert list(found["trained on"]) == [str(rank) for rank in study.FURTHER_RANKS]


def test_a_model_can_be_had_as_it_was_before_training(monkeypatch):
    monkeypatch.setattr(study, "BASE_STEPS", 1)
    fresh, trained = (study.base_model(seed=3, trained=x) for x in (False, True))
    same = build(study.grouped(8, rotary=False), seed=3, positions="learned")
    start, again, later = (list(x.parameters()) for x in (fresh, same, trained))
    assert all(torch.equal(a, b) for a, b in zip(start, again, strict=True))
    assert any(not torch.equal(a, c) for a, c in zip(start, later, strict=True))


def test_a_conversion_of_full_rank_adds_nothing(monkeypatch):
    model = study.base_model(seed=0, trained=False)
    monkeypatch.setattr(study, "held_out_loss", lambda model: float(model.embed.weight.detach().sum()))
    found = study.losses_of_conversion(model, ranks=(4, 64))
    assert found["added"] == {name: {"4": 0, "64": 0} for name in ("matrices alone", "weighted by text")}
    for missing in found["left out"].values():
        assert missing["4"] > 0.1 and missing["64"] < 1e-9
