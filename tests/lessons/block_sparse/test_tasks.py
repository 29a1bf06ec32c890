"""The two tasks of the chapter ask what they say, and their study records every seed."""

import math

import torch

from attncourse.lessons.block_sparse import lookup, streams, study
from attncourse.lessons.block_sparse.forms import stride_of
from attncourse.lessons.block_sparse.reader import sparse_reader
from attncourse.models.text import CHARACTERS


def test_connections_take_turns_packet_by_packet():
    texts = torch.arange(2 * streams.PACKET * streams.STREAMS).view(streams.STREAMS, -1)
    mixed = streams.in_turn(texts)
    packets = mixed.view(-1, streams.PACKET)
    assert packets[:, 0].tolist() == [16 * i for i in range(8)] + [16 * i + 8 for i in range(8)]
    assert torch.equal(packets.diff(dim=1), torch.ones_like(packets[:, 1:]))


def test_a_packet_reads_the_packets_of_its_own_connection():
    mask = streams.pattern_of("own connection").dense_mask()
    place = torch.arange(streams.LENGTH)
    connection = place // streams.PACKET % streams.STREAMS
    assert torch.equal(mask, (connection[:, None] == connection) & (place[:, None] >= place))
    band, own = (streams.pattern_of(name).count() for name in ("local", "own connection"))
    assert own <= band < own + streams.LENGTH
    assert streams.pattern_of("dense").count() == streams.LENGTH * (streams.LENGTH + 1) // 2


def test_the_target_is_the_next_character_of_the_same_connection():
    last, around = streams.PACKET - 1, streams.PACKET * (streams.STREAMS - 1) + 1

    def model(tokens):
        """Return what a model would that knows all but the last packets' last targets, at which it guesses."""
        logits = torch.zeros(*tokens.shape, len(CHARACTERS))
        for place in range(streams.LENGTH):
            after = place + (around if place % streams.PACKET == last else 1)
            if after < streams.LENGTH:
                logits[0, place, tokens[0, after]] = 1e4
        return logits

    loss = streams.draw_loss(held_out=True, count=1)(model, torch.Generator().manual_seed(0))
    guessed = math.log(len(CHARACTERS)) * streams.STREAMS / streams.LENGTH
    assert math.isclose(loss.item(), guessed, rel_tol=1e-5)


def test_the_marked_token_alone_carries_the_value():
    tokens, value, place = lookup.hide(50, rng=torch.Generator().manual_seed(0))
    marked = (tokens >= lookup.VALUES) & (tokens < 2 * lookup.VALUES)
    assert torch.equal(marked.nonzero()[:, 1], place)
    assert torch.equal(tokens[torch.arange(50), place] - lookup.VALUES, value)
    assert (tokens[:, -1] == 2 * lookup.VALUES).all() and (place < lookup.PLACES - 1).all()


def test_places_are_grouped_by_what_the_last_position_sees():
    seen = lookup.seen_places()
    assert seen.nonzero()[:, 0].tolist() == [6, 13, 20, 27, 34, *range(41, 48)]
    assert lookup.by_group(seen.float()) == {"seen": 1.0, "not seen": 0.0}


def test_the_reader_sees_what_its_pattern_says():
    model = sparse_reader(17, lookup.lookup_pattern(), d_model=8, n_heads=2, n_layers=1)
    tokens, _, _ = lookup.hide(1, rng=torch.Generator().manual_seed(0))
    at = model(tokens)[0, -1]
    for place, seen in enumerate(lookup.seen_places().tolist()):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 16
        assert torch.equal(model(other)[0, -1], at) != seen


def test_the_study_records_every_seed(monkeypatch):
    monkeypatch.setattr(study, "held_out_loss", lambda rival, *, seed, steps: seed + steps)
    monkeypatch.setattr(study, "accuracy_of_layers", lambda n, *, seed: torch.full((48,), seed / n))
    found = study.measure(2)
    assert found["streams"].keys() == {"100", "400"} and found["streams"]["400"]["dense"] == [400, 401]
    assert found["lookup"]["two layers, not seen"] == [0.0, 0.5]
    assert list(found["lookup"]) == [
        "one layer, seen",
        "one layer, not seen",
        "two layers, seen",
        "two layers, not seen",
    ]


def test_a_few_steps_train():
    untrained, trained = (streams.held_out_loss("own connection", seed=0, steps=steps) for steps in (1, 8))
    assert trained < untrained - 0.2


def test_the_stride_is_a_multiple_of_the_block():
    assert [stride_of(n) for n in (4, 512, 4096, 16384)] == [32, 96, 256, 512]
