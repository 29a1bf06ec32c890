"""Two heads by construction say whether two bits differ; the trained model is the setting of the proof."""

import torch
from torch import nn

from attncourse.lessons.multi_head import differ


def test_every_stream_is_there_once_with_the_answer_to_each_place():
    bits, differs = differ.every_stream()
    assert len(bits) == 2**differ.PLACES == len(bits.unique(dim=0))
    row = bits.tolist().index([1, 0, 0, 1, 1, 0])
    assert differs[row].tolist() == [True, False, True, False]  # of places 3 to 6: bits 1 0, 0 0, 0 1, 1 1


@torch.no_grad()
def test_two_heads_by_hand_read_any_and_mean():
    bits, differs = differ.every_stream()
    layer, tokens = differ.build_two_heads(), differ.as_tokens(bits)
    any_one, mean = (bits[:, 1:-1] | bits[:, :-2]).float(), (bits[:, 1:-1] + bits[:, :-2]) / 2
    torch.testing.assert_close(layer(tokens, head_mask=torch.tensor([1.0, 0.0]))[:, 2:, 0], any_one)
    torch.testing.assert_close(layer(tokens, head_mask=torch.tensor([0.0, 1.0]))[:, 2:, 0], -mean - 0.25)
    assert torch.equal(layer(tokens)[:, 2:, 0] > 0, differs)


class Oracle(nn.Module):
    """Knows the answers, and says them or their opposite; nothing is asked at the first two places."""

    def __init__(self, sign: float):
        super().__init__()
        self.sign = sign

    def forward(self, streams):
        _, differs = differ.every_stream()
        numbers = torch.full(streams.shape, torch.nan)
        numbers[:, 2:] = self.sign * (differs * 2.0 - 1.0)
        return numbers


def test_the_share_of_right_answers_counts_asked_places_alone():
    assert differ.share_right(Oracle(1.0)) == 1.0 and differ.share_right(Oracle(-1.0)) == 0.0


def test_models_of_any_number_of_heads_are_equally_large():
    sizes = {sum(p.numel() for p in differ.Differ(heads).parameters()) for heads in (1, 2, 4)}
    assert len(sizes) == 1
