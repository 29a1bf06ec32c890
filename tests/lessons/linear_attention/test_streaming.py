"""The streaming language model against itself in pieces."""

import pytest
import torch

from attncourse.lessons.linear_attention.streaming import (
    EDGES,
    READERS,
    StreamingLM,
    loss_between,
    loss_read_afresh,
    read_far,
)


@pytest.mark.parametrize("decay", [None, "retention", "gated"])
def test_reading_in_pieces_is_reading_at_once(decay):
    torch.manual_seed(0)
    model = StreamingLM(11, d_model=8, n_heads=2, decay=decay).double()
    tokens = torch.randint(11, (2, 23), generator=torch.Generator().manual_seed(1))
    whole = model(tokens)
    for sizes in ([23], [1] * 23, [5, 1, 17]):
        states, rows = None, []
        for piece in tokens.split(sizes, dim=1):
            logits, states = model.read(piece, states)
            rows.append(logits)
        torch.testing.assert_close(torch.cat(rows, dim=1), whole)
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 11
    moved = (model(changed) - whole).abs().amax(dim=(0, 2)) > 0
    assert not moved[:9].any() and moved[9:].all()


def test_losses_lie_between_their_edges_and_those_read_afresh_are_of_the_last_ones():
    """A reader that knows all even characters and gives the others one chance in two needs ln 2 on every second one."""
    n = EDGES[-1]
    stream = torch.arange(n + 1).expand(1, -1) % 2

    def reader(tokens):
        known = torch.tensor([[0.0, 0.0], [50.0, 0.0]])  # after a 1 comes a 0; after a 0 anything
        return known[tokens]

    half = torch.tensor(2.0).log().item() / 2
    assert loss_between(reader, stream) == pytest.approx([half] * (len(EDGES) - 1), abs=1e-4)
    assert loss_read_afresh(reader, stream) == pytest.approx(half, abs=1e-4)

    harder = stream.clone()
    harder[:, EDGES[-2] + 1 :] = 0  # the characters that the last bucket predicts
    assert loss_read_afresh(reader, harder) == pytest.approx(2 * half, abs=1e-4)
    assert loss_between(reader, harder)[:-1] == pytest.approx([half] * (len(EDGES) - 2), abs=1e-4)


def test_a_window_reads_less_than_the_whole():
    torch.manual_seed(0)
    readers = {name: make() for name, make in READERS.items()}
    stream = torch.randint(1, 90, (1, EDGES[-1] + 1), generator=torch.Generator().manual_seed(1))
    found = read_far(readers, stream)
    assert list(found) == [*READERS, "softmax, window of 128"]
    whole, window = found["softmax, rotary"], found["softmax, window of 128"]
    assert whole[:3] == pytest.approx(window[:3], abs=1e-5)  # up to 128 characters both see all
    assert whole[-1] != pytest.approx(window[-1], abs=1e-5)
