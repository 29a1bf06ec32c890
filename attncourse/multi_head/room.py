"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Multi-head attention",
    idea="Several attentions next to each other, each with projections of its own, joined by one matrix.",
    formula=r"O = [O_1, \ldots, O_h]\; W_O",
    papers=(("Vaswani et al. 2017", "https://arxiv.org/abs/1706.03762"),),
    chapter="multi_head",
    kernels="through those of `softmax_attention`",
    builds_on=("softmax_attention",),
)
