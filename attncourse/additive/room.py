"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Additive attention",
    papers=(("Bahdanau et al. 2014", "https://arxiv.org/abs/1409.0473"),),
    chapter="short_history",
    kernels="forward, backward",
)
