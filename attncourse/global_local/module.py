"""Global and local attention as a layer: project, attend, project, with projections of their own for global tokens."""

from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths
from attncourse._shared.masks import blank_padding
from attncourse._shared.validate import check_key_lengths, check_tokens, check_widths

from .blocked import global_local_attention_blocked, read_neighbours, read_through_projections
from .hubs import existing_indices, put_rows, take_rows, tokens_that_exist
from .inputs import check_global_indices
from .reference import global_local_attention


class GlobalLocalAttention(nn.Module):
    """The layer is heads of global and local attention over a sequence.

    Beltagy et al. 2020, Longformer, https://arxiv.org/abs/2004.05150, section 3.1. The projections of global tokens
    start as copies of the others (section 5).

    Args:
        d_model: width of the sequence, and of the output.
        n_heads: heads, which divide d_model.
        radius: neighbours that a token reads on either side; layers of a stack may differ in it.
        impl: "reference" (the definition), "blocked" (memory linear in the length) or "triton" (the kernels;
            interpreted without a GPU). Blocks of few global tokens read through the projections' matrices, so that the
            bias of w_k_global, whose gradient is 0, gets none.
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": global_local_attention,
        "blocked": global_local_attention_blocked,
        "triton": "attncourse.global_local.kernel:global_local_attention_triton",
    }

    def __init__(self, d_model: int, n_heads: int, *, radius: int, impl: str = "blocked"):
        super().__init__()
        head_widths(d_model, n_heads)
        check_widths(radius=radius)
        check_impl(impl, self.forms)
        self.d_model, self.n_heads, self.radius, self.impl = d_model, n_heads, radius, impl
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d_model, d_model) for _ in range(4))
        self.w_q_global, self.w_k_global, self.w_v_global = (nn.Linear(d_model, d_model) for _ in range(3))
        for ours, theirs in ((self.w_q_global, self.w_q), (self.w_k_global, self.w_k), (self.w_v_global, self.w_v)):
            ours.load_state_dict(theirs.state_dict())

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        global_indices: Int[Tensor, " n"] | Int[Tensor, "b n"] | None = None,
        key_lengths: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the output; rows of padding are w_o's bias, as zeros in.

        Args:
            global_indices: positions of the global tokens, (n,) for all sequences alike or (b, n), where -1 fills rows
                that have fewer.
            key_lengths: (b,) integers; later tokens are padding, global ones too.

        Raises:
            ValueError: global indices out of range or twice; a shape, dtype or device is wrong.
        """
        self._check(x, global_indices, key_lengths)
        if key_lengths is not None:
            x = blank_padding(x[:, None], key_lengths)[:, 0]
        index = existing_indices(global_indices, key_lengths, b=len(x), device=x.device)
        hubs = take_rows(x[:, None], index)[:, 0]
        q, k, v = (split_heads(project(x), self.n_heads) for project in (self.w_q, self.w_k, self.w_v))
        q_global = split_heads(self.w_q_global(hubs), self.n_heads)
        if self.impl == "blocked" and index.shape[1] < q.shape[-1]:
            return self.w_o(merge_heads(self._without_global_keys(x, q, k, v, q_global, index, key_lengths)))
        k_global, v_global = (split_heads(w(x), self.n_heads) for w in (self.w_k_global, self.w_v_global))
        out = form_of(self.impl, self.forms)(
            q, k, v, radius=self.radius, global_indices=index, global_qkv=(q_global, k_global, v_global),
            key_lengths=key_lengths,
        )  # fmt: skip
        return self.w_o(merge_heads(out))

    def _without_global_keys(self, x, q, k, v, q_global, index, key_lengths):
        b, _, t, dk = q.shape
        exists = tokens_that_exist(t, key_lengths, b=b, device=x.device)
        out = read_neighbours(q, k, v, radius=self.radius, index=index, exists=exists, scale=dk**-0.5)
        rows = read_through_projections(
            x, q_global, self.w_k_global.weight, self.w_v_global.weight, self.w_v_global.bias,
            exists=exists, scale=dk**-0.5,
        )  # fmt: skip
        return blank_padding(put_rows(out, rows, index), key_lengths)

    def _check(self, x, global_indices, key_lengths):
        check_tokens(x, self.w_q.weight)
        b, t, _ = x.shape
        check_global_indices(global_indices, b=b, t=t, like=x)
        check_key_lengths(key_lengths, b=b, s=t, like=x)
