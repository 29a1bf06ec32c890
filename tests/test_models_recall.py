"""The task of recall against its rule, and that it is learned."""

import pytest
import torch

from attncourse.linear_attention import LinearAttention
from attncourse.models.recall import Recaller, draw_recall, recall_accuracy, recall_loss
from attncourse.models.training import train


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
