"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Sliding-window attention",
    papers=(("Beltagy et al. 2020", "https://arxiv.org/abs/2004.05150"),),
    chapter="sliding_window",
    kernels="forward, backward",
)
