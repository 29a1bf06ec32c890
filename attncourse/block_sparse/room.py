"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Block-sparse attention",
    idea="Most pairs never meet. Those that do lie in blocks, which a machine can skip or compute whole.",
    formula=r"(i, j)\; \mathrm{meet\ if\ their\ block\ is\ live}",
    papers=(("Child et al. 2019", "https://arxiv.org/abs/1904.10509"),),
    chapter="block_sparse",
    kernels="forward, backward",
)
