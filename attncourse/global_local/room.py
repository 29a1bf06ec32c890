"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Global and local attention",
    papers=(("Beltagy et al. 2020", "https://arxiv.org/abs/2004.05150"),),
    chapter="global_local",
    kernels="forward, backward",
)
