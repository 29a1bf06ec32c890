"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Latent attention",
    papers=(("DeepSeek-AI 2024", "https://arxiv.org/abs/2405.04434"),),
    chapter="latent",
    kernels="absorbed decode, contiguous and paged",
    builds_on=("softmax_attention",),
)
