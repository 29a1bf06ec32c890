"""What the two forms of latent attention compute and move, from shapes alone, and where one overtakes the other."""

import math
from dataclasses import dataclass

FORMS = ("expanded", "absorbed")


@dataclass(frozen=True)
class LatentShape:
    """The shape has the sizes of a layer that its cost hangs on, under their published names."""

    n_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def cached(self) -> int:
        """Return the numbers that a token leaves in the cache."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def expanded(self) -> int:
        """Return the numbers of a token's keys and values once every head has its own."""
        return self.n_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim)

    @property
    def up_projections(self) -> int:
        """Return the numbers of W_UK and W_UV together."""
        return self.n_heads * self.kv_lora_rank * (self.qk_nope_head_dim + self.v_head_dim)


def latent_flops(shape: LatentShape, form: str, *, t: int, s: int) -> int:
    """Return the floating-point operations of t queries over s cached tokens,
    two per multiply-add, without softmax and masks.

    Expanding costs the up-projections once per key; absorbing costs them once per query, but then every pair of query
    and key meets in the latents' width instead of a head's.

    Args:
        shape: of the layer.
        form: "expanded" or "absorbed".
    """
    if form == "expanded":
        return 2 * s * shape.up_projections + 2 * t * s * shape.expanded
    pair = shape.n_heads * (2 * shape.kv_lora_rank + shape.qk_rope_head_dim)
    return 2 * t * shape.up_projections + 2 * t * s * pair


def latent_bytes(shape: LatentShape, form: str, *, t: int, s: int, itemsize: int) -> int:
    """Return the bytes that must move for one sequence:
    the cache and the up-projections read once, what is formed written and read.

    Expanded, each head's keys and values are formed; absorbed, nothing as long as the cache is.

    Args:
        shape: of the layer.
        form: "expanded" or "absorbed".
        t, s: queries and cached tokens.
        itemsize: bytes of a number.
    """
    inputs = s * shape.cached + shape.up_projections
    per_query = shape.n_heads * (shape.qk_nope_head_dim + shape.qk_rope_head_dim + shape.v_head_dim)
    if form == "expanded":
        return itemsize * (inputs + 2 * s * shape.expanded + t * per_query)
    absorbed = 2 * shape.n_heads * 2 * shape.kv_lora_rank  # queries and mixtures in the latent space, there and back
    return itemsize * (inputs + t * (per_query + absorbed))


def crossover(shape: LatentShape, *, s: float = math.inf) -> float:
    """Return the number of queries at which both forms of a layer of this shape take the same operations over s keys.

    Below it absorbing is cheaper. It is infinite where absorbing is cheaper for a pair too, 2 kv_lora_rank <=
    qk_nope_head_dim + v_head_dim, and s is large.
    """
    heads = shape.qk_nope_head_dim + shape.v_head_dim
    once = shape.kv_lora_rank * heads
    dearer = 2 * shape.kv_lora_rank - heads + once / s  # what a query costs more, a key, when it is absorbed
    return once / dearer if dearer > 0 else math.inf


def cheaper_form(shape: LatentShape, *, t: int, s: int) -> str:
    """Return "absorbed" for few queries over a cache, "expanded" for many,
    by the operations of t queries over s tokens.

    Args:
        shape: of the layer.
        t, s: queries and cached tokens.
    """
    return min(FORMS, key=lambda form: latent_flops(shape, form, t=t, s=s))
