"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Linear attention",
    idea="Features in the place of the exponential: all keys and values are summed in a state that does not grow.",
    formula=r"S_i = S_{i-1} + \phi(k_i)^{\top} v_i, \quad o_i \propto \phi(q_i)\, S_i",
    papers=(("Katharopoulos et al. 2020", "https://arxiv.org/abs/2006.16236"),),
    chapter="linear_attention",
    kernels="forward, backward, decode step",
)
