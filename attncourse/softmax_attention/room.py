"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Softmax attention",
    papers=(("Vaswani et al. 2017", "https://arxiv.org/abs/1706.03762"),),
    chapter="softmax_attention",
    kernels="forward, backward",
)
