"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Grouped-query attention",
    papers=(("Ainslie et al. 2023", "https://arxiv.org/abs/2305.13245"),),
    chapter="grouped_query",
    kernels="decode, split over the keys",
    builds_on=("softmax_attention",),
)
