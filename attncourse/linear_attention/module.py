"""Linear attention and the delta rule as layers: project, attend, project, with the state in and out."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths
from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import wide
from attncourse._shared.validate import check_context, check_key_lengths, check_tokens, check_widths, require

from .blocked import delta_rule_blocked, linear_attention_blocked
from .features import FEATURE_MAPS, FeatureMap
from .reference import delta_rule_attention, linear_attention, retention_decay
from .state import LinearState

DECAYS = (None, "retention", "gated")
GATE_TEMPERATURE = 16  # of Yang et al. 2023, section 4.4: gates start near 1


class LinearAttention(nn.Module):
    """The layer is heads of linear attention over a sequence, or from one sequence into another.

    Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236; retention's decay is Sun et al. 2023,
    https://arxiv.org/abs/2307.08621, a fixed number per head; the gated one Yang et al. 2023,
    https://arxiv.org/abs/2312.06635, is computed from each token, a number per feature. Both papers also gate the
    output and normalize it by heads; here it is projected as it is.

    Args:
        d_model: width of the queries' sequence, and of the output.
        n_heads: heads.
        d_context: width of the sequence that is read (default: d_model).
        head_dim: width of queries and keys (default: d_model / n_heads).
        v_head_dim: width of values (default: head_dim).
        causal: query i of t stands at position s - t + i and sees nothing after it.
        feature_map: "elu", "identity", or a function from (..., head_dim) to (..., f).
        normalize: divide by the sum of the weights.
        decay: None, "retention" or "gated" (which needs features as wide as head_dim); both need causal.
        impl: "reference" (the definition), "blocked" (linear in the length) or "triton" (the kernel; interpreted
            without a GPU).
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": linear_attention,
        "blocked": linear_attention_blocked,
        "triton": "attncourse.linear_attention.kernel:linear_attention_triton",
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        *,
        d_context: int | None = None,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        causal: bool = False,
        feature_map: str | FeatureMap = "elu",
        normalize: bool = True,
        decay: str | None = None,
        impl: str = "blocked",
    ):
        super().__init__()
        _, head_dim, v_head_dim = head_widths(d_model, n_heads, head_dim=head_dim, v_head_dim=v_head_dim)
        d_context = d_model if d_context is None else d_context
        check_widths(d_context=d_context)
        check_impl(impl, self.forms)
        require(decay in DECAYS, f"decay must be None, 'retention' or 'gated', got {decay!r}")
        require(decay is None or causal, f"decay={decay!r} counts the steps since a key, so it needs causal=True")
        require(
            callable(feature_map) or feature_map in FEATURE_MAPS,
            f"feature_map must be a function or one of {', '.join(FEATURE_MAPS)}, got {feature_map!r}",
        )
        self.d_model, self.d_context, self.n_heads = d_model, d_context, n_heads
        self.causal, self.normalize, self.impl, self.decay = causal, normalize, impl, decay
        self.feature_map = feature_map if callable(feature_map) else FEATURE_MAPS[feature_map]
        self.w_q = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.w_k = nn.Linear(self.d_context, n_heads * head_dim, bias=False)
        self.w_v = nn.Linear(self.d_context, n_heads * v_head_dim, bias=False)
        self.w_o = nn.Linear(n_heads * v_head_dim, d_model, bias=False)
        self.w_gate = nn.Linear(self.d_context, n_heads * head_dim) if decay == "gated" else None

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s dc"] | None = None,
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        state: LinearState | None = None,
        need_state: bool = False,
    ):
        """Return the output (b, t, d); with need_state also the state after the last token that was read.

        Args:
            context: what is read (default: x).
            key_lengths: (b,) integers; later keys are padding, whatever they hold.
            state: what was read before; need_state gives it.
            need_state: whether the state is returned, too.
        """
        context = x if context is None else context
        check_context(x, context, self.w_q.weight, self.w_k.weight)
        q, k, v = (
            split_heads(project(y), self.n_heads)
            for project, y in ((self.w_q, x), (self.w_k, context), (self.w_v, context))
        )
        options = dict(
            causal=self.causal, feature_map=self.feature_map, normalize=self.normalize, decay=self._decay(context),
            key_lengths=key_lengths, state=state,
        )  # fmt: skip
        out, state = form_of(self.impl, self.forms)(q, k, v, return_state=True, **options)
        out = self.w_o(merge_heads(out))
        return (out, state) if need_state else out

    def _decay(self, context):
        if self.decay == "retention":
            exact = torch.promote_types(context.dtype, torch.float32)  # bfloat16 would round 1 - 2 ** -12 to 1
            return retention_decay(self.n_heads, dtype=exact, device=context.device)
        if self.decay == "gated":
            gates = nn.functional.logsigmoid(wide(self.w_gate(context))) / GATE_TEMPERATURE
            return split_heads(gates.exp(), self.n_heads)
        return None


class DeltaRule(nn.Module):
    """The layer is heads of causal attention whose memory replaces what stands under a key, instead of adding to it.

    Schlag et al. 2021, https://arxiv.org/abs/2102.11174, with keys and queries of length 1 as in Yang et al. 2024,
    https://arxiv.org/abs/2406.06484, section 3.3: SiLU, then division by the length. Theirs also has a short
    convolution before, and normalizes the output.

    Args:
        d_model: width of the sequence, and of the output.
        n_heads: heads.
        head_dim: width of queries and keys (default: d_model / n_heads).
        v_head_dim: width of values (default: head_dim).
        impl: "blocked" (in chunks) or "reference" (step by step).
    """

    forms: ClassVar[dict[str, Form]] = {"reference": delta_rule_attention, "blocked": delta_rule_blocked}

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        *,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        impl: str = "blocked",
    ):
        super().__init__()
        _, head_dim, v_head_dim = head_widths(d_model, n_heads, head_dim=head_dim, v_head_dim=v_head_dim)
        check_impl(impl, self.forms)
        self.d_model, self.n_heads, self.impl = d_model, n_heads, impl
        self.w_q = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.w_k = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.w_v = nn.Linear(d_model, n_heads * v_head_dim, bias=False)
        self.w_beta = nn.Linear(d_model, n_heads)
        self.w_o = nn.Linear(n_heads * v_head_dim, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        state: Float[Tensor, "b h dk dv"] | None = None,
        need_state: bool = False,
    ):
        """Return the output (b, t, d); with need_state also the memory after the last token.

        Args:
            key_lengths: (b,) integers; later tokens are padding, whatever they hold.
            state: the memory of what was read before.
            need_state: whether the memory is returned, too.
        """
        check_tokens(x, self.w_q.weight)
        check_key_lengths(key_lengths, b=x.shape[0], s=x.shape[1], like=x)
        projected = [split_heads(project(x), self.n_heads) for project in (self.w_q, self.w_k, self.w_v)]
        q, k, v = (wide(y) for y in projected)
        q, k = (nn.functional.normalize(nn.functional.silu(y), dim=-1) for y in (q, k))
        k, v = blank_padding(k, key_lengths), blank_padding(v, key_lengths)
        beta = split_heads(torch.sigmoid(wide(self.w_beta(x))), self.n_heads)
        beta = blank_padding(beta, key_lengths)[..., 0]
        out, state = form_of(self.impl, self.forms)(q, k, v, beta, state=state)
        out = self.w_o(merge_heads(out.to(projected[2].dtype)))
        return (out, state) if need_state else out
