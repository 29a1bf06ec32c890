"""The clerk's facts are as they are read out, and codecs are measured against what was stored."""

import pytest
import torch

from attncourse.kv_cache import CacheShape, ContiguousCache, Int8
from attncourse.lessons.kv_cache import study as study_of_codecs
from attncourse.lessons.kv_cache.codecs import STORED, bits_per_number, read_through, relative_error
from attncourse.lessons.kv_cache.models import DIGITS, NAMES, WIDTH, draw_facts, fact_in_words, multi_head
from attncourse.lessons.kv_cache.study import MEASURES, NAME, study
from attncourse.models.decoder import DecoderLM
from attncourse.models.study import read_study
from attncourse.models.text import CHARACTERS


def test_the_answer_is_the_digit_that_was_told_of_the_name():
    tokens, answers = draw_facts(20, torch.Generator().manual_seed(0), facts=4)
    assert tokens.shape == (20, 5)
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        assert row[-1] >= NAMES * DIGITS > max(row[:-1])
        asked = row[-1] - NAMES * DIGITS
        assert asked * DIGITS + answer in row[:-1]


def test_a_token_of_the_clerk_in_words():
    assert fact_in_words(3 * DIGITS + 5) == "name 3 has 5"
    assert fact_in_words(NAMES * DIGITS + 3) == "which digit has name 3?"


def test_an_error_is_a_share_of_what_was_stored():
    caches = [ContiguousCache(1, CacheShape(1, (2, 2)), capacity=1) for _ in range(2)]
    with torch.no_grad():
        caches[0].append(torch.tensor([[[[3.0, 4]]]]), torch.zeros(1, 1, 1, 2))
        caches[1].append(torch.tensor([[[[3.0, 4.5]]]]), torch.zeros(1, 1, 1, 2))
    assert relative_error(caches[1:], caches[:1]) == pytest.approx(0.1)
    assert relative_error(caches[:1], caches[:1]) == 0


@pytest.fixture
def writer():
    """A writer of the chapter's shape, untrained."""
    torch.manual_seed(0)
    return DecoderLM(len(CHARACTERS), d_model=WIDTH, n_layers=1, context=128, attention=multi_head).double()


def test_bits_count_scales_and_zero_points(writer):
    """8 bits, and 64 of scale and zero point for 32 entries."""
    assert bits_per_number(read_through(writer, codec=Int8())[1][0]) == 10
    assert bits_per_number(read_through(writer)[1][0]) == 64


def test_the_study_has_each_measure_of_each_codec_per_seed(writer, monkeypatch):
    monkeypatch.setattr(study_of_codecs, "trained_writer", lambda seed: writer)
    found = study(seeds=1)
    assert set(found) == set(MEASURES) and all(set(found[what]) == set(STORED) for what in MEASURES)
    assert 0 < found["error"]["int8"][0] < found["error"]["int4"][0] < 0.2
    recorded = read_study(NAME).results
    assert {what: set(values) for what, values in recorded.items()} == {what: set(STORED) for what in MEASURES}
    assert all(len(seeds) >= 5 for values in recorded.values() for seeds in values.values())
