"""Multi-head latent attention as a layer: compress, attend in whichever form is cheaper, project back."""

from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.cache import CacheShape, KeyValueCache, read_cache, visible_through
from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_key_lengths, check_tokens, check_widths, require
from attncourse.softmax_attention import softmax_attention_blocked, softmax_attention_torch

from .blocked import latent_attention_blocked
from .cost import FORMS, LatentShape, cheaper_form
from .reference import absorb_query, expand_latent, expand_output, latent_attention, latent_attention_absorbed


class LatentAttention(nn.Module):
    """The layer is causal attention that caches a low-rank latent and one rotated key per token,
    not each head's keys and values.

    DeepSeek-AI 2024, https://arxiv.org/abs/2405.04434, section 2.1. Projections are laid out like those of
    DeepSeek's checkpoints: kv_a gives [latent ; shared rotary key], kv_b gives [key ; value] head by head, and q (or q_b)
    gives [query ; rotary query] head by head. As in the released model, each compressed latent passes an RMSNorm before
    it is expanded (section 3.1.2), and the cache holds it normalised.

    Args:
        d_model: width of the tokens.
        n_heads: number of heads.
        kv_lora_rank: width of the latent that keys and values share.
        q_lora_rank: width of the queries' own latent; None for queries straight from the tokens.
        qk_nope_head_dim: width of a head's queries and keys that carries no position.
        qk_rope_head_dim: width that is rotated by position, shared by all heads' keys; 0 for none.
        v_head_dim: width of a head's values.
        rope: turns the rotary parts (default: interleaved, of width qk_rope_head_dim).
        scale: factor on the scores (default: (qk_nope_head_dim + qk_rope_head_dim) ** -0.5).
        norm: whether the latents are normalised. A layer converted by SVD has no norm.
        form: "expanded", "absorbed", or None for the one that takes fewer operations (see `cheaper_form`).
        impl: "reference" (the definition), "blocked" (memory linear in the length), "torch" (PyTorch's fused
            attention), "triton" (kernels, interpreted without a GPU) or "numba" (a kernel for processors). Absorbed,
            from a cache, the last two read it where it lies, without a codec and without gradients, and "torch" does as
            "blocked": `latent_attention_blocked`. In all else "numba" does as "blocked".

    Raises:
        ValueError: a width, a rope, a form or an impl that does not fit.
    """

    # Fused: what attends to every head's expanded keys, or to the latents as keys.
    forms: ClassVar[dict[str, Form]] = {
        "reference": latent_attention,
        "blocked": softmax_attention_blocked,
        "torch": softmax_attention_torch,
        "triton": "attncourse.softmax_attention.kernel:softmax_attention_triton",
        "numba": softmax_attention_blocked,
    }
    # What reads a cache of latents where it lies.
    decoders: ClassVar[dict[str, Form]] = {
        "triton": "attncourse.latent.kernel:latent_attention_triton",
        "numba": "attncourse.latent.cpu_kernel:latent_attention_numba",
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        kv_lora_rank: int,
        q_lora_rank: int | None = None,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        rope: RotaryEmbedding | None = None,
        scale: float | None = None,
        norm: bool = True,
        form: str | None = None,
        impl: str = "torch",
    ):
        super().__init__()
        check_widths(
            d_model=d_model, n_heads=n_heads, kv_lora_rank=kv_lora_rank, qk_nope_head_dim=qk_nope_head_dim,
            v_head_dim=v_head_dim, **({} if q_lora_rank is None else {"q_lora_rank": q_lora_rank}),
        )  # fmt: skip
        require(qk_rope_head_dim >= 0, f"qk_rope_head_dim must be at least 0, got {qk_rope_head_dim}")
        require(form is None or form in FORMS, f"form must be None or one of {', '.join(FORMS)}, got {form!r}")
        check_impl(impl, self.forms)
        if rope is None and qk_rope_head_dim > 0:
            rope = RotaryEmbedding(qk_rope_head_dim, interleaved=True)
        require(
            qk_rope_head_dim == getattr(rope, "width", 0),
            f"rope must turn qk_rope_head_dim = {qk_rope_head_dim}, got a rope of width {getattr(rope, 'width', 0)}",
        )
        self.d_model, self.q_lora_rank = d_model, q_lora_rank
        self.shape = LatentShape(n_heads, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim)
        head_dim = qk_nope_head_dim + qk_rope_head_dim
        self.rope, self.form, self.impl = rope, form, impl
        self.scale = head_dim**-0.5 if scale is None else scale
        if q_lora_rank is None:
            self.q = nn.Linear(d_model, n_heads * head_dim, bias=False)
        else:
            self.q_a = nn.Linear(d_model, q_lora_rank, bias=False)  # W_DQ
            self.q_a_norm = _norm(q_lora_rank, norm)
            self.q_b = nn.Linear(q_lora_rank, n_heads * head_dim, bias=False)  # W_UQ and W_QR
        self.kv_a = nn.Linear(d_model, kv_lora_rank + qk_rope_head_dim, bias=False)  # W_DKV and W_KR
        self.kv_a_norm = _norm(kv_lora_rank, norm)
        self.kv_b = nn.Linear(kv_lora_rank, n_heads * (qk_nope_head_dim + v_head_dim), bias=False)  # W_UK and W_UV
        self.o = nn.Linear(n_heads * v_head_dim, d_model, bias=False)

    @property
    def cache_shape(self) -> CacheShape:
        """Return what a cache keeps: a normalised latent and a rotated key per token, whatever the number of heads."""
        return CacheShape(1, (self.shape.kv_lora_rank, self.shape.qk_rope_head_dim))

    @property
    def up_projections(self) -> tuple[Float[Tensor, "h n r"], Float[Tensor, "h dv r"]]:
        """Return W_UK and W_UV, head by head: views of kv_b's weight."""
        by_head = rearrange(self.kv_b.weight, "(h nv) r -> h nv r", h=self.shape.n_heads)
        return by_head.split([self.shape.qk_nope_head_dim, self.shape.v_head_dim], dim=1)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the output (b, t, d): each token attends to itself and those before it.

        Args:
            key_lengths: how many tokens of each row exist; what stands after them is padding.
            cache: holds what stands before x; x is added to it. Of a ring no more is seen than its window.

        Raises:
            ValueError: a shape, dtype or device does not fit.
        """
        self._check(x, key_lengths)
        positions = torch.arange(x.shape[1], device=x.device)
        if cache is not None:
            positions = cache.lengths[:, None] + positions
        q_nope, q_rope = self.queries(x, positions)
        latent, k_rope = self.compress(x, positions)
        if cache is None:
            return self._attend(q_nope, q_rope, latent, k_rope, dict(causal=True, key_lengths=key_lengths))
        cache.append(latent, k_rope, counts=key_lengths)
        if self.impl in self.decoders and self._form(t=x.shape[1], s=int(cache.lengths.max())) == "absorbed":
            return self._decode_in_place(q_nope, q_rope, cache, positions)
        latent, k_rope, masking = _read(cache, positions, dtype=q_nope.dtype)
        return self._attend(q_nope, q_rope, latent, k_rope, masking)

    def queries(
        self, x: Float[Tensor, "b t d"], positions: Int[Tensor, " t"] | Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b h t n"], Float[Tensor, "b h t p"]]:
        """Return each head's query, and its part that is turned by its position."""
        # equations 12 to 14, or their first two as one
        q = self.q(x) if self.q_lora_rank is None else self.q_b(self.q_a_norm(self.q_a(x)))
        q = split_heads(q, self.shape.n_heads)
        q_nope, q_rope = q.split([self.shape.qk_nope_head_dim, self.shape.qk_rope_head_dim], dim=-1)
        return q_nope, self._rotate(q_rope, positions)

    def compress(
        self, x: Float[Tensor, "b t d"], positions: Int[Tensor, " t"] | Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b 1 t r"], Float[Tensor, "b 1 t p"]]:
        """Return what the cache keeps of tokens:
        their normalised latents (equation 9) and shared rotated keys (equation 15).
        """
        latent, k_rope = self.kv_a(x)[:, None].split([self.shape.kv_lora_rank, self.shape.qk_rope_head_dim], dim=-1)
        # Under autocast a norm gives float32, whatever it is given.
        return self.kv_a_norm(latent).to(latent.dtype), self._rotate(k_rope, positions)

    def _rotate(self, x, positions):
        return x if self.rope is None else self.rope(x, positions)

    def _form(self, *, t: int, s: int) -> str:
        if self.form is None and self.impl == "triton" and torch.is_grad_enabled():
            return "expanded"  # the one whose kernel has gradients
        return self.form or cheaper_form(self.shape, t=t, s=s)

    def _attend(self, q_nope, q_rope, latent, k_rope, masking):
        inputs = (q_nope, q_rope, latent, k_rope, *(w.to(latent.dtype) for w in self.up_projections))
        form = self._form(t=q_nope.shape[2], s=latent.shape[2])
        if self.impl == "reference":
            definition = latent_attention if form == "expanded" else latent_attention_absorbed
            out = definition(*inputs, scale=self.scale, **masking)
        elif form == "absorbed" and self.impl != "triton" and "causal" not in masking:
            out = latent_attention_blocked(*inputs, scale=self.scale, **masking)
        else:
            out = self._attend_as_softmax(form, *inputs, masking)
        return self.o(merge_heads(out))  # equation 19

    def _attend_as_softmax(self, form, q_nope, q_rope, latent, k_rope, w_uk, w_uv, masking):
        """Attend in either form by a fused softmax attention:
        over every head's keys, or as multi-query attention over latents.
        """
        attend = form_of(self.impl, self.forms)
        if form == "expanded":
            q = torch.cat([q_nope, q_rope], dim=-1)
            return attend(q, *expand_latent(latent, k_rope, w_uk, w_uv), scale=self.scale, **masking)
        q = torch.cat([absorb_query(q_nope, w_uk), q_rope], dim=-1)
        k = torch.cat([latent, k_rope], dim=-1)
        return expand_output(attend(q, k, latent, scale=self.scale, **masking), w_uv)

    def _decode_in_place(self, q_nope, q_rope, cache, positions):
        """Attend straight from the cache's storage: nothing is gathered, and nothing but the tokens read."""
        held = (*_raw_storage(cache, self.impl), *self.up_projections)
        held = (x.to(q_nope.dtype) for x in held)  # of another under autocast alone
        out = form_of(self.impl, self.decoders)(
            q_nope, q_rope, *held, key_lengths=cache.lengths, positions=positions,
            block_table=cache.block_table, scale=self.scale,
        )  # fmt: skip
        return self.o(merge_heads(out))

    def _check(self, x, key_lengths):
        check_tokens(x, self.kv_a.weight)
        check_key_lengths(key_lengths, b=x.shape[0], s=x.shape[1], like=x)


def _norm(width: int, norm: bool) -> nn.Module:
    """Return the norm of a latent, with the released model's epsilon."""
    return nn.RMSNorm(width, eps=1e-6) if norm else nn.Identity()


def _read(cache: KeyValueCache, positions: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return what a cache holds, and what queries at these positions see of it; token by token in order, if it can be."""
    if not cache.in_order:
        (latent, k_rope), visible = read_cache(cache, positions, dtype=dtype)
        return latent, k_rope, dict(mask=visible)
    latent, k_rope = (x.to(dtype) for x in cache.view())  # no other than the cache's own, but under autocast
    masking = dict(key_lengths=cache.lengths)
    if positions.shape[1] > 1:  # a single token, the last, sees all there is
        masking["mask"] = visible_through(cache, positions)
    return latent, k_rope, masking


def _raw_storage(cache: KeyValueCache, impl: str) -> list[Tensor]:
    """Return the streams as they lie, (b, 1, capacity, width) or pages, of a cache that keeps position p in slot p."""
    if cache.window is not None or any(len(fields) != 1 for fields in cache.storage):
        raise ValueError(
            f"impl={impl!r} decodes from contiguous and paged caches without a codec, got {type(cache).__name__}: "
            "use impl='torch' for it"
        )
    return [fields[0] for fields in cache.storage]
