"""Tokens per second that a whole model can reach, from its weights, its cache and a device's two rates.

Pope et al. 2022, https://arxiv.org/abs/2211.05102, section 2: one step reads the weights once for the batch and each sequence's
cache once, and computes two operations per parameter and token beside attention's.
"""

import math
from dataclasses import dataclass

from attncourse._shared.validate import check_widths, require
from attncourse.kv_cache import CacheCost
from attncourse.profile.counts import Count
from attncourse.profile.roofline import Roofline


@dataclass(frozen=True)
class WholeModel:
    """A whole model says what one step moves and computes.

    Attributes:
        weights: bytes that a step reads whatever the batch.
        parameters: how many of them a token is multiplied with: of a mixture of experts, the active ones.
        cache: of a batch of one sequence.
        new_tokens: of each sequence in a step; more than one where a draft is checked.
    """

    weights: float
    parameters: float
    cache: CacheCost
    new_tokens: int = 1

    def __post_init__(self):
        check_widths(new_tokens=self.new_tokens)
        require(self.cache.batch == 1, f"give the cache of one sequence, got a batch of {self.cache.batch}")
        require(
            self.weights > 0 and self.parameters > 0,
            f"a model has weights, got {self.weights} bytes and {self.parameters} parameters",
        )

    def count(self, batch: int) -> Count:
        """Return the operations and bytes of a step."""
        flops = batch * self.new_tokens * (2 * self.parameters + self.cache.flops_per_step)
        return Count(flops, self.weights + batch * self.cache.bytes_read_on_device)

    def tokens_per_second(self, batch: int, roofline: Roofline) -> float:
        """Return the tokens per second of the whole batch."""
        return batch * self.new_tokens / roofline.seconds(self.count(batch))

    def turning_batch(self, roofline: Roofline) -> int | None:
        """Return the smallest batch for which computing takes as long as reading; None where no batch is large enough."""
        one = self.count(1)
        gained = one.flops / roofline.flops - (one.bytes - self.weights) / roofline.bandwidth
        return math.ceil(self.weights / roofline.bandwidth / gained) if gained > 0 else None

    def fits(self, memory: float) -> int:
        """Return how many sequences' caches fit beside the weights in so many bytes; 0 where the weights do not."""
        return 0 if self.weights > memory else self.cache.sequences_that_fit(memory, weights=self.weights)
