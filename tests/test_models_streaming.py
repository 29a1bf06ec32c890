"""The streaming language model against itself in pieces, and the task of recall against its rule."""

import pytest
import torch

from attncourse.linear_attention import LinearAttention
from attncourse.models.recall import Recaller, draw_recall, recall_accuracy, recall_loss
from attncourse.models.streaming import StreamingLM
from attncourse.models.training import train


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


@pytest.mark.parametrize("repeat", [False, True])
def test_the_answer_is_the_value_that_the_key_last_had(repeat):
    rng = torch.Generator().manual_seed(0)
    batch = draw_recall(200, n_pairs=6, n_keys=7, n_values=5, repeat=repeat, rng=rng)
    for keys, values, asked, answer in zip(*(x.tolist() for x in batch), strict=True):
        assert dict(zip(keys, values, strict=True))[asked] == answer  # a dict keeps the last value
        assert repeat or len(set(keys)) == 6
    assert not repeat or any(len(set(keys)) < 6 for keys in batch.keys.tolist())
    assert len(batch.asked.unique()) == 7 and len(batch.answers.unique()) == 5


@pytest.mark.bad_input
def test_more_different_keys_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="4 keys do not make 5 different ones: use repeat=True"):
        draw_recall(1, n_pairs=5, n_keys=4, n_values=2, rng=torch.Generator())


def test_a_recaller_learns_the_task():
    torch.manual_seed(0)
    layer = LinearAttention(24, head_dim=8, feature_map="identity", normalize=False)
    model = Recaller(layer, n_keys=6, n_values=4, d_model=24)

    def draw(rng):
        return draw_recall(32, n_pairs=3, n_keys=6, n_values=4, rng=rng)

    test = draw_recall(500, n_pairs=3, n_keys=6, n_values=4, rng=torch.Generator().manual_seed(9))
    assert recall_accuracy(model, test) < 0.5
    train(model, recall_loss(draw), steps=150, learning_rate=1e-2)
    assert recall_accuracy(model, test) > 0.9
