"""One layer of each family, as wide as the others, to be compared on one task: `Recaller(layer, ...)` reads once with it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attncourse._shared.cache import CacheShape
from attncourse._shared.heads import merge_heads, split_heads
from attncourse.additive import AdditiveAttention
from attncourse.block_sparse import BlockSparseAttention, strided
from attncourse.global_local import GlobalLocalAttention
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import ContiguousCache, RingCache
from attncourse.latent import LatentAttention
from attncourse.linear_attention import LinearAttention
from attncourse.multi_head import MultiHeadAttention
from attncourse.multiplicative import MultiplicativeAttention
from attncourse.sliding_window import SlidingWindowAttention


class SelfReading(nn.Module):
    """The layer reads a memory with queries, (b, t, d) and (b, s, d), and the memory is its own queries."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Let every token read every token."""
        return self.layer(x, x)


class LastReadsOthers(nn.Module):
    """The layer is cross-attention from the last token, the question, to the others as another sequence."""

    def __init__(self, layer: MultiHeadAttention):
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b 1 d"]:
        """Let the last token read all others, and not itself."""
        return self.layer(x[:, -1:], x[:, :-1])


class LastIsGlobal(nn.Module):
    """The layer is global and local attention whose last token, the question, is the global one."""

    def __init__(self, layer: GlobalLocalAttention):
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Let the last token read every token, and the others it and their neighbours."""
        return self.layer(x, global_indices=torch.tensor([x.shape[1] - 1], device=x.device))


def family_layers(d_model: int, n_heads: int, *, near: int, longest: int) -> dict[str, Callable[[], nn.Module]]:
    """Return what makes a fresh layer of each family, (b, t, d) to (b, t, d),
    by the name that `choose` gives the design.

    "self_attention" and "causal_attention" have one head, and are causal or not; cross-attention gives the last token's
    output alone, (b, 1, d).

    Args:
        near: tokens that layers with a window see, their own included; the stride of the strided pattern.
        longest: the longest sequence.
    """
    width = d_model // n_heads
    return {
        "additive": lambda: SelfReading(AdditiveAttention(d_model, d_model, hidden_dim=d_model, impl="reference")),
        "multiplicative": lambda: SelfReading(MultiplicativeAttention(d_model, d_model)),
        "self_attention": lambda: MultiHeadAttention(d_model, 1, bias=True),
        "cross_attention": lambda: LastReadsOthers(MultiHeadAttention(d_model, n_heads, bias=True)),
        "causal_attention": lambda: MultiHeadAttention(d_model, 1, bias=True, causal=True),
        "multi_head": lambda: MultiHeadAttention(d_model, n_heads, bias=True, causal=True),
        "sliding_window": lambda: SlidingWindowAttention(d_model, n_heads, window=near, bias=True),
        "block_sparse": lambda: BlockSparseAttention(
            d_model, n_heads, pattern=strided(longest, stride=near, block=16), bias=True, impl="torch"
        ),
        "global_local": lambda: LastIsGlobal(GlobalLocalAttention(d_model, n_heads, radius=near - 1, impl="reference")),
        "linear_attention": lambda: LinearAttention(d_model, n_heads, causal=True, impl="reference"),
        "grouped_query": lambda: GroupedQueryAttention(d_model, n_heads, n_kv_heads=max(n_heads // 2, 1), bias=True),
        "multi_query": lambda: GroupedQueryAttention(d_model, n_heads, n_kv_heads=1, bias=True),
        "latent": lambda: LatentAttention(
            d_model, n_heads, kv_lora_rank=d_model // 2, qk_nope_head_dim=width, qk_rope_head_dim=0, v_head_dim=width
        ),
    }


@dataclass(frozen=True)
class Decoder:
    """A decoder is one layer that has read `length` tokens and writes on.

    Args:
        step: what one more token takes, (1, 1, d) to (1, 1, d).
        bytes_per_token: that each further token adds to what is kept.
        held_bytes: what is kept after the tokens read.
    """

    step: Callable[[Float[Tensor, "1 1 d"]], Float[Tensor, "1 1 d"]]
    bytes_per_token: int
    held_bytes: int


@torch.no_grad()
def family_decoders(d_model: int, n_heads: int, *, length: int, window: int, seed: int = 0) -> dict[str, Decoder]:
    """Return layers that decode one sequence, all of one width, after `length` random tokens, in float32.

    Like for like: each projects its token to a query, a key, a value and an output, all of the full width but for the keys
    and values that a design shares or compresses, and adds the token to what it keeps. So additive and multiplicative
    scores are asked of a sequence's own past here, a head's width each. Left out are attention to both sides, global and
    local attention among it, which cannot write; block-sparse attention, of which the course has no step; and
    cross-attention, whose step is multi-head attention's without the new token's key and value. Latent attention keeps
    half the width and half a head's rotated key.
    """
    rng, width = torch.Generator().manual_seed(seed), d_model // n_heads
    cached = {
        "causal_attention": GroupedQueryAttention(d_model, 1, n_kv_heads=1),
        "multi_head": GroupedQueryAttention(d_model, n_heads, n_kv_heads=n_heads),
        "grouped_query": GroupedQueryAttention(d_model, n_heads, n_kv_heads=max(n_heads // 4, 1)),
        "multi_query": GroupedQueryAttention(d_model, n_heads, n_kv_heads=1),
        "latent": LatentAttention(
            d_model, n_heads, kv_lora_rank=d_model // 2, qk_nope_head_dim=width, qk_rope_head_dim=width // 2,
            v_head_dim=width, impl="blocked",
        ),
    }  # fmt: skip
    decoders = {name: _from_cache(layer, length, rng) for name, layer in cached.items()}
    decoders["sliding_window"] = _from_window(SlidingWindowAttention(d_model, n_heads, window=window), length, rng)
    decoders["linear_attention"] = _from_state(LinearAttention(d_model, n_heads, causal=True), length, rng)
    mix, w_score = torch.randn(width, width, generator=rng) / width, torch.randn(width, generator=rng) / width**0.5
    decoders["multiplicative"] = _from_scores(
        lambda q, k: (q @ mix) @ k.mT, MultiHeadAttention(d_model, n_heads), length, rng
    )
    decoders["additive"] = _from_scores(
        lambda q, k: torch.tanh(q + k) @ w_score, MultiHeadAttention(d_model, n_heads), length, rng
    )
    return decoders


def _from_cache(layer: nn.Module, length: int, rng: torch.Generator) -> Decoder:
    """Return a decoder whose cache has room for the tokens that measuring writes."""
    shape = layer.cache_shape
    cache = ContiguousCache(1, shape, capacity=length + 1024)
    cache.append(*(torch.randn(1, shape.n_kv_heads, length, w, generator=rng) for w in shape.widths))
    per_token = 4 * shape.n_kv_heads * sum(shape.widths)
    return Decoder(lambda x: layer(x, cache=cache), per_token, length * per_token)


def _from_window(layer: SlidingWindowAttention, length: int, rng: torch.Generator) -> Decoder:
    """Return a decoder with what the window still holds: nothing else was ever worth reading."""
    shape, window = layer.cache_shape, layer.pattern["window"]
    cache = RingCache(1, shape, window=window)
    for _ in range(min(length, window)):
        cache.append(*(torch.randn(1, shape.n_kv_heads, 1, width, generator=rng) for width in shape.widths))
    return Decoder(lambda x: layer(x, cache=cache), 0, cache.nbytes)


def _from_state(layer: LinearAttention, length: int, rng: torch.Generator) -> Decoder:
    _, state = layer(torch.randn(1, length, layer.d_model, generator=rng), need_state=True)

    def step(x: Float[Tensor, "1 1 d"]) -> Float[Tensor, "1 1 d"]:
        nonlocal state
        out, state = layer(x, state=state, need_state=True)
        return out

    return Decoder(step, 0, sum(part.nbytes for part in state))


def _from_scores(
    score: Callable[[Tensor, Tensor], Tensor], layer: MultiHeadAttention, length: int, rng: torch.Generator
) -> Decoder:
    """Return a decoder like multi-head attention's with another score, `score(q, k)` of a head's query and its keys."""
    width = layer.d_model // layer.n_heads
    cache = ContiguousCache(1, CacheShape(layer.n_heads, (width, width)), capacity=length + 1024)
    cache.append(*torch.randn(2, 1, layer.n_heads, length, width, generator=rng))

    def step(x: Float[Tensor, "1 1 d"]) -> Float[Tensor, "1 1 d"]:
        q, k, v = (split_heads(project(x), layer.n_heads) for project in (layer.w_q, layer.w_k, layer.w_v))
        cache.append(k, v)
        keys, values = cache.view()
        weights = torch.softmax(score(q, keys).view(1, layer.n_heads, 1, -1), dim=-1)
        return layer.w_o(merge_heads(weights @ values))

    per_token = 4 * 2 * layer.d_model
    return Decoder(step, per_token, length * per_token)
