"""The schematics show the patterns that they are given."""

import torch
from matplotlib.patches import Rectangle

from attncourse.block_sparse import fixed, local
from attncourse.lessons.block_sparse.figures import KINDS
from attncourse.lessons.block_sparse.schematic import WANTED, patterns_and_blocks, sentence_reads


def colours(figure):
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and patch.get_fill()]
    return [patch.get_facecolor() for patch in patches]


def rgba(color):
    return Rectangle((0, 0), 1, 1, facecolor=color).get_facecolor()


def test_pairs_and_blocks_are_counted_by_their_colours():
    figure = patterns_and_blocks({"band": local(8, steps=1, block=2)}, fixed(8, stride=4, block=2), query=7)
    drawn = colours(figure)
    assert drawn.count(rgba(WANTED)) == 15  # eight on the diagonal, seven below it
    whole, partial, wasted = (drawn.count(rgba(KINDS[kind])) for kind in reversed(KINDS))
    # beside the 24 wanted and 8 wasted pairs stand a whole block and a partial one with one pair wasted, as the legend
    assert (whole, partial, wasted) == (2 * 4 + 4, 16 + 4, 8 + 1)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "query 7 reads\n6, 7" in texts and "8 live blocks are computed, 8 are not" in texts


def test_a_sentence_says_after_how_many_layers_each_word_is_reached():
    layers = torch.tensor([[0, -1, -1], [1, 0, -1], [2, 1, 0]])
    figure = sentence_reads(["we", "saw", "it"], {"band": layers, "none": -1 + torch.eye(3).long()}, query=2)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["we", "saw", "it", "band", "2", "1", "it", "none", "it"]
