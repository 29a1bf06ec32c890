"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Linear attention",
    papers=(("Katharopoulos et al. 2020", "https://arxiv.org/abs/2006.16236"),),
    chapter="linear_attention",
    kernels="forward, backward, decode step",
)
