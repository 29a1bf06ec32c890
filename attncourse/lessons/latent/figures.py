"""Pictures of latent attention: what becomes of a token, how low the rank of keys is, and where one form overtakes the other."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attncourse.plot.style import COLORS

CACHED, FORMED = COLORS[0], "#BBBBBB"
MARKERS = ("o-", "s--", "^:", "D-.")


def latent_diagram(
    *, d_model: int, n_heads: int, kv_lora_rank: int, qk_nope_head_dim: int, qk_rope_head_dim: int, v_head_dim: int
) -> Axes:
    """Draw a token, what is cached of it, and what every head makes of that: boxes as wide as the vectors are."""
    _, ax = plt.subplots(figsize=(8.0, 3.2))
    gap = 0.35 * qk_rope_head_dim
    heads = n_heads * (qk_nope_head_dim + qk_rope_head_dim + v_head_dim + gap) - gap
    middle = heads / 2

    def box(x, y, width, color, text):
        ax.add_patch(Rectangle((x, y), width, 0.5, facecolor=color, edgecolor="white", linewidth=0.8))
        light = "white" if color in (CACHED, COLORS[1]) else "black"
        ax.annotate(text, (x + width / 2, y + 0.25), color=light, ha="center", va="center", fontsize=8)

    box(middle - d_model / 2, 3.0, d_model, FORMED, f"token, {d_model}")
    left = middle - (kv_lora_rank + gap + qk_rope_head_dim) / 2
    rotary = left + kv_lora_rank + gap
    box(left, 1.6, kv_lora_rank, CACHED, f"latent, {kv_lora_rank}")
    box(rotary, 1.6, qk_rope_head_dim, COLORS[1], str(qk_rope_head_dim))
    note = dict(fontsize=8, va="center")
    ax.annotate("rotary key, shared by all heads", (rotary + qk_rope_head_dim + gap, 1.85), **note)
    ax.annotate("cached:", (left - gap, 1.85), ha="right", **note)
    for target in (left + kv_lora_rank / 2, rotary + qk_rope_head_dim / 2):
        _arrow(ax, (middle, 3.0), (target, 2.1))
    x = 0.0
    for _ in range(n_heads):
        _arrow(ax, (left + kv_lora_rank / 2, 1.6), (x + qk_nope_head_dim / 2, 0.5))
        _arrow(ax, (left + kv_lora_rank / 2, 1.6), (x + qk_nope_head_dim + qk_rope_head_dim + v_head_dim / 2, 0.5))
        for width, color, text in (
            (qk_nope_head_dim, FORMED, "k"), (qk_rope_head_dim, COLORS[1], ""), (v_head_dim, FORMED, "v"),
        ):  # fmt: skip
            box(x, 0.0, width, color, text)
            x += width
        x += gap
    ax.annotate("each head's key and value", (middle, -0.3), ha="center", **note)
    ax.set(xlim=(-gap, heads + gap), ylim=(-0.5, 3.6))
    ax.axis("off")
    return ax


def energy_against_rank(curves: dict[str, list[float]], *, share: float) -> Axes:
    """Draw how much of the squared length of keys and values the first directions hold; a line at a share of it."""
    _, ax = plt.subplots(figsize=(5.6, 3.3))
    for (name, values), style, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values, style[1:], color=color, label=name)
    ax.axhline(share, color="#999999", linewidth=1, zorder=0)
    ax.annotate(f"{share:g}", (0.99, share), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    ax.set(xlabel="directions kept", ylabel="share of the energy", ylim=(0, 1.03), xlim=(0, None))
    ax.legend(loc="lower right")
    return ax


def loss_against_rank(ranks: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw what a conversion costs in loss, by the rank of its latents and by what was done after."""
    _, ax = plt.subplots(figsize=(5.6, 3.3))
    for (name, values), style, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(ranks[: len(values)], values, style, color=color, markersize=5, label=name)
    ax.axhline(0, color="#999999", linewidth=1, zorder=0)
    ax.set(xscale="log", xlabel="rank of the latents", ylabel="loss added, nats per character")
    ax.set_xticks(ranks, [str(r) for r in ranks])
    ax.minorticks_off()
    ax.legend()
    return ax


def crossover_of_forms(
    queries: list[int], operations: dict[str, list[float]], seconds: dict[str, list[float]], *, predicted: float
) -> Figure:
    """Draw operations and time of each form against the number of queries, and where the operations meet."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.3))
    for ax, curves, factor, ylabel in (
        (axes[0], operations, 1e-6, "million operations, counted"), (axes[1], seconds, 1e3, "time, ms"),
    ):  # fmt: skip
        for (name, values), style, color in zip(curves.items(), MARKERS, COLORS, strict=False):
            ax.plot(queries, [factor * y for y in values], style, color=color, markersize=4, label=name)
        ax.axvline(predicted, color="#999999", linewidth=1, zorder=0)
        ax.set(xscale="log", yscale="log", xlabel="queries", ylabel=ylabel)
        ax.set_xticks(queries, [str(t) for t in queries])
        ax.minorticks_off()
    axes[0].annotate("predicted", (predicted, 0.03), xycoords=("data", "axes fraction"), xytext=(4, 0),
                     textcoords="offset points", fontsize=8)  # fmt: skip
    axes[0].legend()
    return figure


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops=dict(arrowstyle="->", color="#999999", linewidth=0.8))
