"""Hard attention as a layer: project, read one place, project."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse._shared.layer import Form, check_impl, form_of, head_widths
from attncourse._shared.validate import check_context, check_widths, require

from .reference import gumbel_noise, hard_attention, sampled_attention, straight_through_attention
from .selection import HardRead, check_temperature

ESTIMATORS = ("argmax", "score_function", "straight_through")


class HardAttention(nn.Module):
    """The layer is one head that reads a single place of a sequence, its own or another.

    Xu et al. 2015, https://arxiv.org/abs/1502.03044, section 4.1, with learned projections before and after. In
    training it samples where to look; in evaluation it looks at the best key.

    Args:
        d_model: width of the queries' sequence, and of the output.
        d_context: width of the sequence that is read (default: d_model).
        head_dim: width of queries and keys (default: d_model).
        v_head_dim: width of values (default: head_dim).
        causal: query i of t stands at position s - t + i and sees nothing after it.
        estimator: how queries and keys learn. "score_function" returns log-probabilities for `score_function_loss`;
            "straight_through" sends the Gumbel-softmax's gradient through the output; "argmax" never samples, and gives
            them no gradient.
        temperature: of straight_through's soft half.
        impl: "reference" (the definition) or "triton" (the kernel, which never forms weights; not for straight_through,
            which needs them).
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": hard_attention,
        "triton": "attncourse.hard_attention.kernel:hard_attention_triton",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_context: int | None = None,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        causal: bool = False,
        estimator: str = "score_function",
        temperature: float = 1.0,
        impl: str = "reference",
    ):
        super().__init__()
        require(estimator in ESTIMATORS, f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
        check_impl(impl, self.forms)
        require(
            impl == "reference" or estimator != "straight_through",
            f"impl={impl!r} never forms the weights that straight_through differentiates: use impl='reference'",
        )
        check_temperature(temperature)
        d_context = d_model if d_context is None else d_context
        check_widths(d_context=d_context)
        _, head_dim, v_head_dim = head_widths(d_model, 1, head_dim=head_dim, v_head_dim=v_head_dim)
        self.causal, self.estimator, self.temperature, self.impl = causal, estimator, temperature, impl
        self.w_q = nn.Linear(d_model, head_dim, bias=False)
        self.w_k = nn.Linear(d_context, head_dim, bias=False)
        self.w_v = nn.Linear(d_context, v_head_dim, bias=False)
        self.w_o = nn.Linear(v_head_dim, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s dc"] | None = None,
        *,
        generator: torch.Generator | None = None,
        key_lengths: Int[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        need_choice: bool = False,
    ):
        """Return the output (b, t, d); with need_choice also the index read (b, t) and its log-probability (b, t).

        Args:
            context: what is read (default: x).
            key_lengths: (b,) integers; later keys are padding, whatever they hold.
            mask: boolean (True = visible) or floats to add, broadcastable to (b, 1, t, s).
            need_choice: whether index and log-probability are returned, too.
            generator: where the noise comes from; needed whenever this layer samples.

        Raises:
            ValueError: a shape, dtype or device does not fit; it is to sample, and has no generator.
        """
        context = x if context is None else context
        check_context(x, context, self.w_q.weight, self.w_k.weight)
        q, k, v = (project(y)[:, None] for project, y in ((self.w_q, x), (self.w_k, context), (self.w_v, context)))
        masking = dict(causal=self.causal, key_lengths=key_lengths, mask=mask)
        read = self._read(q, k, v, generator, masking)
        out = self.w_o(read.out[:, 0])
        return (out, read.index[:, 0], read.log_prob[:, 0]) if need_choice else out

    def _read(self, q, k, v, generator, masking) -> HardRead:
        samples = self.training and self.estimator != "argmax"
        if samples and generator is None:
            raise ValueError(f"estimator={self.estimator!r} samples in training: give it a generator")
        attend = form_of(self.impl, self.forms)
        if self.impl == "triton":
            # The kernel's noise is a function of one number; the generator moves on with each call.
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device)) if samples else None
            return attend(q, k, v, seed=seed, **masking)
        if not samples:
            return attend(q, k, v, **masking)
        if self.estimator == "score_function":
            return sampled_attention(q, k, v, generator=generator, **masking)
        noise = gumbel_noise(*q.shape[:3], k.shape[2], generator=generator).to(q.device)
        return straight_through_attention(q, k, v, noise=noise, temperature=self.temperature, **masking)
