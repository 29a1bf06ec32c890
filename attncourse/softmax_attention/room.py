"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Softmax attention",
    idea="A query is compared with every key; the values are mixed in proportion to the exponentials of the scores.",
    formula=r"O = \mathrm{softmax}(QK^{\top} / \sqrt{d_k})\; V",
    papers=(("Vaswani et al. 2017", "https://arxiv.org/abs/1706.03762"),),
    chapter="softmax_attention",
    kernels="forward, backward",
)
