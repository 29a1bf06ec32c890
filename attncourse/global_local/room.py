"""What this room says of itself."""

from attncourse.rooms import Room

ROOM = Room(
    title="Global and local attention",
    idea="Neighbours see each other; a few global tokens see all and are seen by all, so that any two tokens are two steps apart.",
    formula=r"|i - j| \leq r \;\; \mathrm{or}\;\; i\; \mathrm{or}\; j\; \mathrm{global}",
    papers=(("Beltagy et al. 2020", "https://arxiv.org/abs/2004.05150"),),
    chapter="global_local",
    kernels="forward, backward",
)
