"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Hard attention",
    papers=(("Xu et al. 2015", "https://arxiv.org/abs/1502.03044"),),
    chapter="hard_attention",
    kernels="forward, samples in one pass",
    builds_on=("softmax_attention",),
)
