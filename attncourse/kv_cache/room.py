"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="The KV cache",
    idea="Keys and values of past tokens are kept, so that a step computes those of its new token alone.",
    formula=r"K_t = [K_{t-1};\, k_t], \quad V_t = [V_{t-1};\, v_t]",
    papers=(
        ("Shazeer 2019", "https://arxiv.org/abs/1911.02150"),
        ("Kwon et al. 2023", "https://arxiv.org/abs/2309.06180"),
    ),
    chapter="kv_cache",
    kernels="append, gather",
    builds_on=("softmax_attention",),
    has_layer=False,
)
