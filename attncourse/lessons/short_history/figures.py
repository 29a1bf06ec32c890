"""Pictures of the first attentions: where they sit in a decoder, what they look at, what they cost, how they learn."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.alignment import alignments
from attncourse.plot.schematic import arrow, box, canvas, note
from attncourse.plot.style import COLORS

WORDS = 4  # encoder states in the schematic
WEIGHTS = (0.06, 0.76, 0.12, 0.06)


def two_decoders() -> Figure:
    """Draw one decoder step as Bahdanau's and as Luong's papers have it: who asks, and where the context goes."""
    figure, ax = canvas(8.6, 3.9)
    _bahdanau(ax, 0.1)
    _luong(ax, 4.4)
    ax.axvline(4.25, 0.03, 0.97, color="#cccccc", linewidth=1)
    return figure


def _bahdanau(ax: Axes, left: float) -> None:
    note(ax, (left + 2.0, 3.7), "Bahdanau 2014: read, then step", bold=True)
    attention = _encoder_and_attention(ax, left + 1.35)
    _state(ax, (left + 0.55, 2.4), "state $i-1$")
    box(ax, (left + 2.35, 2.4), "GRU", width=0.7)
    _state(ax, (left + 3.5, 2.4), "state $i$", width=0.8)
    arrow(ax, (left + 1.0, 2.4), (left + 2.0, 2.4), role="state")
    arrow(ax, (left + 2.7, 2.4), (left + 3.1, 2.4), role="state")
    arrow(ax, (left + 0.65, 2.17), (attention - 0.4, 1.55), role="query")
    note(ax, (left + 0.68, 1.85), "query", align="right")
    arrow(ax, (attention + 0.5, 1.55), (left + 2.3, 2.17), role="value")
    note(ax, (left + 2.25, 1.85), "context $o_i$", align="left")
    _characters(ax, left + 2.35, left + 3.5)


def _luong(ax: Axes, left: float) -> None:
    note(ax, (left + 2.0, 3.7), "Luong 2015: step, then read", bold=True)
    attention = _encoder_and_attention(ax, left + 1.35)
    _state(ax, (left + 0.5, 2.4), "state $i-1$")
    box(ax, (left + 1.6, 2.4), "GRU", width=0.6)
    _state(ax, (left + 2.6, 2.4), "state $i$", width=0.8)
    box(ax, (left + 3.65, 2.4), "tanh", width=0.6)
    arrow(ax, (left + 0.95, 2.4), (left + 1.3, 2.4), role="state")
    arrow(ax, (left + 1.9, 2.4), (left + 2.2, 2.4), role="state")
    arrow(ax, (left + 3.0, 2.4), (left + 3.35, 2.4), role="state")
    arrow(ax, (left + 2.4, 2.17), (attention + 0.25, 1.55), role="query")
    note(ax, (left + 1.8, 1.85), "query", align="right")
    arrow(ax, (attention + 0.65, 1.35), (left + 3.6, 2.17), role="value", bend=0.2)
    note(ax, (left + 2.75, 1.2), "context $o_i$", align="left")
    note(ax, (left + 0.6, 3.2), "tanh of step $i-1$\n(input feeding)", size=9)
    arrow(ax, (left + 0.75, 2.98), (left + 1.4, 2.63), dashed=True)
    _characters(ax, left + 1.6, left + 3.65)


def _encoder_and_attention(ax: Axes, middle: float) -> float:
    """Encoder states below the attention that reads them; returns the attention's middle."""
    box(ax, (middle, 1.35), "weights $a_{ij}$", width=1.3, height=0.4, role="weight")
    for j, weight in enumerate(WEIGHTS):
        x = middle + (j - (WORDS - 1) / 2) * 0.68
        box(ax, (x, 0.55), f"$k_{j + 1}$", width=0.5, height=0.36, role="key")
        arrow(ax, (x, 0.73), (middle + (x - middle) * 0.55, 1.15), role="value", thickness=0.7 + 4 * weight)
    note(ax, (middle, 0.18), "encoder states: keys and values")
    return middle


def _state(ax: Axes, centre: tuple[float, float], text: str, width: float = 0.9) -> None:
    box(ax, centre, text, width=width, role="state")


def _characters(ax: Axes, read: float, written: float) -> None:
    """Write the character that a step reads, and the one that it writes, above what takes and gives them."""
    box(ax, (read, 3.2), "$y_{i-1}$", width=0.6, role="token")
    arrow(ax, (read, 2.97), (read, 2.63), role="token")
    box(ax, (written, 3.2), "writes $y_i$", width=0.95, role="token")
    arrow(ax, (written, 2.63), (written, 2.97), role="token")


def memory_by_length(lengths: list[int], measured: dict[str, list[int]], predicted: dict[str, list[int]]) -> Axes:
    """Draw measured peaks of each form as points, and the bytes that its formula predicts as a line of the same colour.

    Args:
        measured, predicted: bytes by form; a form may stop at a shorter length than others.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.6))
    for (name, peaks), marker, color in zip(measured.items(), "os^", COLORS, strict=False):
        shown = lengths[: len(peaks)]
        ax.plot(shown, [p / 1e6 for p in predicted[name][: len(peaks)]], color=color, linewidth=1.2)
        ax.plot(shown, [p / 1e6 for p in peaks], marker, color=color, label=name)
    ax.plot([], [], color=COLORS[-1], linewidth=1.2, label="predicted")
    ax.set(xscale="log", yscale="log", xlabel="length of source and of target", ylabel="peak memory, MB")
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.minorticks_off()
    ax.legend()
    return ax


def local_windows(scores: Tensor, truncated: Tensor, weighted: Tensor, *, position: float, radius: int) -> Figure:
    """Draw one query's weights over all keys, over a window, and over a window under a Gaussian."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.5), sharey=True)
    keys = torch.arange(len(scores))
    panels = {
        "global": torch.softmax(scores, dim=0),
        "window (local-m)": truncated,
        "Gaussian (local-p)": weighted,
    }
    for ax, (name, weights) in zip(axes, panels.items(), strict=True):
        ax.bar(keys.tolist(), weights.tolist(), color=COLORS[0])
        ax.set(title=name, xlabel="key")
        ax.annotate(f"sum {weights.sum():.2f}", (0.02, 0.9), xycoords="axes fraction", fontsize=9)
    for ax in axes[1:]:
        ax.axvspan(position - radius - 0.5, position + radius + 0.5, color="#dddddd", zorder=0)
        ax.axvline(position, color=COLORS[1], linewidth=1.5)
    axes[0].set(ylabel="weight")
    return figure


def time_and_bytes(lengths: list[int], milliseconds: dict[str, list[float]], peaks: dict[str, list[int]]) -> Figure:
    """Draw the time of each form of a score against the length, beside the bytes that it holds."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    panels = (milliseconds, {name: [p / 1e6 for p in values] for name, values in peaks.items()})
    for ax, panel, label in zip(axes, panels, ("time, ms", "peak memory, MB"), strict=True):
        for (name, values), style, color in zip(panel.items(), ("o-", "s--", "^-", "d:"), COLORS, strict=False):
            ax.plot(lengths, values, style, color=color, label=name)
        ax.set(xscale="log", yscale="log", xlabel="queries and keys, $t = s$", ylabel=label)
        ax.set_xticks(lengths, [str(n) for n in lengths])
        ax.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def scores_by_seed(runs: list[dict]) -> Figure:
    """Draw each run of the study as a dot: right answers after few and after many steps, and weight on the own item."""
    few, many = sorted({run["steps"] for run in runs})
    panels = {
        f"right, {few} steps": (few, "right"),
        f"right, {many} steps": (many, "right"),
        f"weight on own item, {few} steps": (few, "own_item"),
    }
    names = list(dict.fromkeys(run["score"] for run in runs))
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.7), sharey=True)
    for ax, (title, (steps, what)) in zip(axes, panels.items(), strict=True):
        shown = [run for run in runs if run["steps"] == steps]
        rows = [names.index(run["score"]) for run in shown]
        ax.plot([run[what] for run in shown], rows, "o", color=COLORS[0], alpha=0.6)
        ax.set(xlim=(0, 1.03), title=title, xlabel="share")
        ax.grid(axis="x", color="#dddddd")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    return figure


def five_alignments(source: list[str], panels: dict[str, dict], own: Tensor, *, columns: int = 2) -> Figure:
    """Draw what each of five models looked at while they wrote the same, and beside them where its own item stands.

    Args:
        source: the words read.
        panels: by model what it wrote, `written`, and its weights in `percent`, a row per character.
        own: (t, s), true where a character and a word belong to the same item.
    """
    (written,) = {panel["written"] for panel in panels.values()}
    weights = {name: torch.tensor(panel["percent"]) / 100 for name, panel in panels.items()}
    return alignments({**weights, "own item": own.float() / 2}, source=source, target=written, columns=columns)
