"""The streaming language model against itself in pieces."""

import pytest
import torch

from attncourse.lessons.linear_attention.streaming import StreamingLM


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
