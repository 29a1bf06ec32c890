"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Latent attention",
    idea="All heads recover their keys and values from one short vector per token, and it is kept instead of them, beside one rotated key.",
    formula=r"c = x W_{DKV}, \quad k = c\, W_{UK}, \quad v = c\, W_{UV}",
    papers=(("DeepSeek-AI 2024", "https://arxiv.org/abs/2405.04434"),),
    chapter="latent",
    kernels="absorbed decode, contiguous and paged",
    builds_on=("softmax_attention",),
)
