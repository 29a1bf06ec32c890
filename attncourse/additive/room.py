"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Additive attention",
    idea="A small network scores a query against a key. The first attention: a decoder looks back at all words of the source.",
    formula=r"s_{ij} = w \cdot \tanh(q_i W_q + k_j W_k)",
    papers=(("Bahdanau et al. 2014", "https://arxiv.org/abs/1409.0473"),),
    chapter="short_history",
    kernels="forward, backward",
)
