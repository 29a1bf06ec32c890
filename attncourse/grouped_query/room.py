"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Grouped-query attention",
    idea="Several query heads share one head of keys and values: a cache smaller by that factor.",
    formula=r"\mathrm{head}\; i\; \mathrm{reads}\; K, V\; \mathrm{of\ group}\; \lfloor i\, g / h \rfloor",
    papers=(("Ainslie et al. 2023", "https://arxiv.org/abs/2305.13245"),),
    chapter="grouped_query",
    kernels="decode, split over the keys",
    builds_on=("softmax_attention",),
)
