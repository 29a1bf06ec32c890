"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Sliding-window attention",
    idea="Each token sees the last few tokens. Far ones are heard through the layers below.",
    formula=r"j \leq i \quad \mathrm{and} \quad i - j < w",
    papers=(("Beltagy et al. 2020", "https://arxiv.org/abs/2004.05150"),),
    chapter="sliding_window",
    kernels="forward, backward",
)
