"""The networks, measures and study of the first chapter."""

import json

import pytest
import torch

from attncourse.lessons.why_attention import study
from attncourse.lessons.why_attention.influence import influence
from attncourse.lessons.why_attention.items import item_boxes, item_of, on_own_item, pointing_at_own_item
from attncourse.lessons.why_attention.networks import WIDTHS, make_network
from attncourse.models.dates import Example, make_batch

LIST = Example(("four", ";", "2", "jan.", "1", "9", "0", "0"), "4;1900-01-02")


def test_the_mean_vector_is_the_mean_of_the_words_alone():
    encoder = make_network("mean vector", seed=0).encoder
    batch = make_batch([LIST, Example(("four",), "4")])
    states, mean = encoder(encoder.embed(batch.source), batch.lengths)
    torch.testing.assert_close(mean[0], states[0].mean(dim=0))
    torch.testing.assert_close(mean[1], states[1, 0])


@pytest.mark.parametrize("design", WIDTHS)
def test_a_seed_decides_a_network_and_leaves_the_generator(design):
    before = torch.random.get_rng_state()
    networks = [make_network(design, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    same, again, other = (network.to_vocabulary.weight for network in networks)
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_items_are_told_apart_by_semicolons():
    assert item_of(LIST.source).tolist() == [0, -1, 1, 1, 1, 1, 1, 1]
    assert item_boxes(LIST) == [(0, 1, 0, 1), (2, 10, 2, 6)]


def test_shares_on_the_own_item():
    shares = torch.zeros(1, 14, 10)  # padded on both sides
    shares[0, :, 0] = 1
    own, chance = on_own_item(shares, [LIST])
    assert own == pytest.approx(1 / 11)  # of 11 characters that are no semicolon one belongs to the first item
    assert chance == pytest.approx((1 * 1 / 8 + 10 * 6 / 8) / 11)
    assert pointing_at_own_item(shares, [LIST], [LIST.target]) == pytest.approx(1 / 11)
    shares[0, 1:, 2] = 2
    assert pointing_at_own_item(shares.repeat(2, 1, 1), [LIST, LIST], ["wrong", LIST.target]) == 1


def test_influence_is_what_a_change_of_a_word_does():
    network, batch = make_network("attention", seed=0).double(), make_batch([LIST, Example(("four",), "4")])
    found = influence(network, batch)
    assert not found[1, :, 1:].any() and not found[1, 2:].any()  # padding
    embedded = network.encoder.embed(batch.source).detach()
    direction = torch.randn(embedded.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    step = 1e-6 * direction / direction.norm()
    moved = embedded.clone()
    moved[0, 2] += step

    def logit(embedded):
        logits = network.from_embedded(embedded, batch.lengths, batch.target[:, :-1])
        return logits[0, 4, batch.target[0, 5]].item()

    assert 0 < abs(logit(moved) - logit(embedded)) / 1e-6 <= found[0, 4, 2].item() * (1 + 1e-4)


def test_buckets_hold_their_lower_edge():
    examples = [Example(("four",) * n, "4") for n in (1, 5, 6, 9, 11, 20)]
    assert study.bucket_of(examples).tolist() == [0, 0, 1, 2, 2, 4]


def test_the_study_writes_what_its_trainings_found(monkeypatch, capsys):
    monkeypatch.setattr(study, "RUNS", (("attention", 50), ("mean vector", 50)))
    monkeypatch.setattr(study, "SEEDS", (0,))
    written = {}
    monkeypatch.setattr(study, "write_study", lambda name, results, **about: written.update({name: (results, about)}))
    study.main([])
    results, about = written[study.NAME]
    assert [one["design"] for one in results["runs"]] == ["attention", "mean vector"]
    assert sum(results["counts"]) == 600 and json.loads(json.dumps(results)) == results
    weights = torch.tensor(results["runs"][0]["weights"])
    assert weights.shape == (10, 6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(10), atol=1e-3, rtol=0)
    assert about["seconds"] > 0 and about["command"].startswith("python -m attncourse.lessons.why_attention.study")
