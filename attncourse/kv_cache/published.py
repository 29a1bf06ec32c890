"""Figures that papers print, beside what their own configs give."""

from dataclasses import dataclass

from .cost import cost


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure is one printed number.

    Args:
        what: what it says, with its unit.
        printed: its digits, as they stand in the source.
        computed: the same from the table of configs.
        source: paper and place.
    """

    what: str
    printed: str
    computed: float
    source: str

    @property
    def rounded(self) -> str:
        """Return the computed number in as many digits as are printed."""
        return f"{self.computed:.{len(self.printed.partition('.')[2])}f}"

    @property
    def agrees(self) -> bool:
        """Return whether it is printed as it is computed, to the last digit."""
        return self.rounded == self.printed


def published_figures() -> list[PublishedFigure]:
    """Return every figure that the table of configs can be held to.

    Zhao et al. 2025, https://arxiv.org/abs/2505.09343, table 1 (in bfloat16, KB of 1000 bytes); DeepSeek-AI 2024,
    https://arxiv.org/abs/2405.04434, abstract, tables 1 and 9, and section 3.2.3 for the 6 bits.
    """
    zhao, v2 = "Zhao et al. 2025, table 1", "DeepSeek-AI 2024"
    names = ("deepseek-v3", "qwen2.5-72b", "llama-3.1-405b", "deepseek-v2", "deepseek-v2-lite", "deepseek-67b")
    v3, qwen, llama, large, small, dense = (cost(name, context=1) for name in names)
    one_group = 2 * 128 * len(large.layers)
    return [
        PublishedFigure("DeepSeek-V3, KB a token", "70.272", v3.bytes_per_token / 1000, zhao),
        PublishedFigure("Qwen-2.5 72B, KB a token", "327.680", qwen.bytes_per_token / 1000, zhao),
        PublishedFigure("LLaMA-3.1 405B, KB a token", "516.096", llama.bytes_per_token / 1000, zhao),
        PublishedFigure("Qwen-2.5 72B over DeepSeek-V3", "4.66", qwen.bytes_per_token / v3.bytes_per_token, zhao),
        PublishedFigure("LLaMA-3.1 405B over DeepSeek-V3", "7.28", llama.bytes_per_token / v3.bytes_per_token, zhao),
        PublishedFigure("DeepSeek-V2, as groups of GQA", "2.25", large.elements_per_token / one_group, f"{v2}, table 1"),
        PublishedFigure(
            "small model with MLA, thousand numbers a token", "15.6", small.elements_per_token / 1000, f"{v2}, table 9"
        ),
        PublishedFigure(
            "large model with MLA, thousand numbers a token", "34.6", large.elements_per_token / 1000, f"{v2}, table 9"
        ),
        PublishedFigure(
            "percent less than DeepSeek 67B: V2 in 6 bits, 67B in 16",
            "93.3", 100 * (1 - large.elements_per_token * 6 / (dense.elements_per_token * 16)), f"{v2}, abstract",
        ),
    ]  # fmt: skip
