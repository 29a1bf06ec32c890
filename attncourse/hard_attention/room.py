"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Hard attention",
    idea="One key is drawn and read alone. The draw has no gradient, so it is trained by estimates.",
    formula=r"o_i = v_j, \quad j \sim \mathrm{softmax}(s_i)",
    papers=(("Xu et al. 2015", "https://arxiv.org/abs/1502.03044"),),
    chapter="hard_attention",
    kernels="forward, samples in one pass",
    builds_on=("softmax_attention",),
)
