"""Rounding to any number of bits against the codecs, a loop, and its bound."""

import pytest
import torch

from attncourse.kv_cache import Int4, Int8
from attncourse.kv_cache.rounding import round_to_bits


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bits", "codec"), [(8, Int8), (4, Int4)])
@pytest.mark.parametrize("group", [None, 4])
def test_by_token_it_is_what_the_codec_gives(bits, codec, group):
    x = draw(2, 3, 7, 8)
    decoded = codec(group=group).decode(*codec(group=group).encode(x), dtype=x.dtype)
    torch.testing.assert_close(round_to_bits(x, bits=bits, by="token", group=group), decoded)


@pytest.mark.parametrize("bits", range(1, 9))
def test_by_channel_against_a_loop(bits):
    x = draw(6, 5).double()
    wanted = torch.empty_like(x)
    for channel in range(5):
        for start in (0, 3):
            group = x[start : start + 3, channel]
            step = (group.max() - group.min()) / (2**bits - 1)
            wanted[start : start + 3, channel] = ((group - group.min()) / step).round() * step + group.min()
    got = round_to_bits(x, bits=bits, by="channel", group=3)
    assert got.dtype == x.dtype
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", ["token", "channel"])
def test_no_entry_is_off_by_more_than_half_a_step(by):
    x, axis = draw(3, 16, 8, seed=1), -1 if by == "token" else -2
    for bits in range(1, 9):
        step = (x.amax(dim=axis, keepdim=True) - x.amin(dim=axis, keepdim=True)) / (2**bits - 1)
        off = (round_to_bits(x, bits=bits, by=by) - x).abs()
        assert (off <= step / 2 * (1 + 1e-5)).all() and (off > 0.4 * step).any()


def test_a_large_channel_spoils_a_tokens_group_and_not_a_channels():
    x = draw(64, 16)
    x[:, 3] += 50
    others = [c for c in range(16) if c != 3]
    by_token, by_channel = (round_to_bits(x, bits=4, by=by)[:, others] - x[:, others] for by in ("token", "channel"))
    assert by_token.norm() > 5 * by_channel.norm()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("told", "message"),
    [
        (dict(bits=0, by="token"), r"bits must be an integer in 1..8, got 0"),
        (dict(bits=9, by="token"), r"bits must be an integer in 1..8, got 9"),
        (dict(bits=4, by="head"), "by must be 'token' or 'channel', got 'head'"),
        (dict(bits=4, by="token", group=3), "a group must divide the width 8"),
        (dict(bits=4, by="channel", group=8), "a group must divide the width 6"),
    ],
)
def test_bad_input_is_named(told, message):
    with pytest.raises(ValueError, match=message):
        round_to_bits(draw(6, 8), **told)
