"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Block-sparse attention",
    papers=(("Child et al. 2019", "https://arxiv.org/abs/1904.10509"),),
    chapter="block_sparse",
    kernels="forward, backward",
)
