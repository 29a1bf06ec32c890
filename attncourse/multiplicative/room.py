"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Multiplicative attention",
    idea="A score by products alone, which one matrix product computes for all pairs at once.",
    formula=r"s_{ij} = q_i W k_j^{\top}",
    papers=(("Luong et al. 2015", "https://arxiv.org/abs/1508.04025"),),
    chapter="short_history",
    kernels="through those of `softmax_attention` and `additive`",
    builds_on=("additive", "softmax_attention"),
)
