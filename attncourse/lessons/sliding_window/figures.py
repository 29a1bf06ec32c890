"""Figures of local attention: who sees whom, tiles that are loaded, reach, losses on long rows, recall, and a sink."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS

GREY = COLORS[6]


def pattern_maps(panels: dict[str, Tensor], *, columns: int = 3) -> Figure:
    """Draw one map per pattern, a boolean (t, s):
    a row is a query, a column a key, filled where the query sees the key.
    """
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.5 * rows), squeeze=False)
    for ax, (name, seen) in zip(axes.flat, panels.items(), strict=False):
        ax.imshow(seen.cpu().numpy(), cmap=ListedColormap(["white", COLORS[0]]), vmin=0, vmax=1)
        for axis, count in ((ax.set_xticks, seen.shape[1]), (ax.set_yticks, seen.shape[0])):
            axis([i + 0.5 for i in range(count - 1)], minor=True)
            axis(range(0, count, 5))
        ax.grid(which="minor", color="#dddddd", linewidth=0.5)
        ax.tick_params(which="both", length=0)
        ax.set_title(f"{name}\n{int(seen.sum())} pairs", fontsize=10)
        ax.set(xlabel="key")
    for ax in axes[:, 0]:
        ax.set(ylabel="query")
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    return figure


def loaded_tiles(loaded: Tensor, seen: Tensor) -> Axes:
    """Draw the tiles (blocks of queries, blocks of keys) that a kernel loads, and on them the pairs (t, s) that count."""
    _, ax = plt.subplots(figsize=(5.2, 4.2))
    (rows, columns), (t, s) = loaded.shape, seen.shape
    whole = loaded.repeat_interleave(t // rows, dim=0).repeat_interleave(s // columns, dim=1)
    colors = ListedColormap(["white", COLORS[5], COLORS[0]])
    image = ax.imshow(whole.int() + (whole & seen).int(), cmap=colors, vmin=0, vmax=2, extent=(0, s, t, 0))
    ax.set_xticks(range(0, s + 1, s // columns), minor=True)
    ax.set_yticks(range(0, t + 1, t // rows), minor=True)
    ax.set(xticks=range(0, s + 1, 48), yticks=range(0, t + 1, 48), xlabel="key", ylabel="query")
    ax.grid(which="minor", color="#bbbbbb", linewidth=0.6)
    bar = ax.figure.colorbar(image, ax=ax, ticks=[1 / 3, 1, 5 / 3], shrink=0.5)
    bar.ax.set_yticklabels(["not loaded", "loaded, hidden", "loaded, seen"])
    bar.ax.tick_params(length=0)
    return ax


def reach_by_layers(curves: dict[int, Tensor], reaches: dict[int, int]) -> Axes:
    """Draw one line per number of layers:
    the influence of each distance on the output, with the predicted reach as a mark.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    for (layers, values), style, color in zip(curves.items(), ("-", "--", "-.", ":"), COLORS, strict=False):
        heard = values > 0
        distances = heard.nonzero()[:, 0]
        name = f"{layers} layer{'s' * (layers > 1)}"
        ax.plot(distances, values[heard], style, color=color, label=name)
        ax.axvline(reaches[layers] - 1, color=color, linewidth=0.8, ymax=0.12)
    ax.set(yscale="log", xlabel="distance of the token", ylabel="influence on the output")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def loss_along_row(curves: Mapping[str, Tensor], *, trained: int, group: int) -> Axes:
    """Draw the loss against the place in a row, a point per `group` places; a line ends where rows of training end."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        means = [part.mean().item() for part in values.split(group)]
        ax.plot([group * (i + 0.5) for i in range(len(means))], means, style, color=color, markersize=5, label=name)
    ax.axvline(trained, color=GREY, linewidth=1)
    _, top = ax.get_ylim()
    ax.text(trained + 4, top, "rows of training end here", fontsize=9, color=GREY, va="top")
    ax.set(xlabel="place in the row", ylabel="loss, nats per character", ylim=(None, top + 0.05))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def text_by_seed(
    recorded: Mapping[str, Mapping[str, Sequence[float]]], live: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Draw the loss of each text model, a dot per seed: on rows as in training, and beyond that length."""
    titles = {"short": "rows as in training", "beyond": "beyond that length"}
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.2), sharey=True)
    for ax, (what, title) in zip(axes, titles.items(), strict=True):
        names = {name.replace(", ", ",\n").replace("on long", "on\nlong"): name for name in recorded}
        seed_dots(
            ax, {short: recorded[name][what] for short, name in names.items()},
            {short: live[name][what] for short, name in names.items() if name in live}, color=COLORS[what == "beyond"],
        )  # fmt: skip
        ax.set_title(title)
        ax.grid(axis="y", color="#dddddd", linewidth=0.6)
        ax.tick_params(axis="x", rotation=35)
        ax.legend(loc="upper right")
    axes[0].set_ylabel("loss, nats per character")
    return figure


def accuracy_by_distance(
    curves: dict[str, list[float]], *, chance: float, reach: int, recorded: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> Axes:  # fmt: skip
    """Draw one line per model: the share of right answers when what is asked for stands so far back (from distance 1).

    Args:
        curves: of the models that were trained here.
        chance: of a guess.
        reach: the furthest distance with a path.
        recorded: further seeds of the same models, a small dot each.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.axvspan(0.5, reach + 0.5, color="#eeeeee", zorder=0)
    ax.axhline(chance, color="#999999", linewidth=1)
    ax.annotate("chance", (1, chance + 0.02), fontsize=9, color="#555555")
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        for seed in (recorded or {}).get(name, ()):
            ax.plot(range(1, len(seed) + 1), seed, style[0], color=color, markersize=2.5, alpha=0.6)
        ax.plot(range(1, len(values) + 1), values, style, color=color, markersize=5, label=name)
    ax.set(ylim=(-0.03, 1.05), xlabel="distance between the question and the answer", ylabel="right answers")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def weight_along_text(text: str, weights: Tensor) -> Axes:
    """Draw a bar per character of a text: the weight that a head gives, from there, to the first token."""
    _, ax = plt.subplots(figsize=(6.6, 1.9))
    ax.bar(range(len(text)), weights.tolist(), color=COLORS[0], width=0.8)
    ax.set_xticks(range(len(text)), ["␣" if c == " " else "↵" if c == "\n" else c for c in text], rotation=0)
    ax.tick_params(axis="x", length=0)
    ax.set(
        ylim=(0, 1), ylabel="weight on the\nfirst token", xlabel="the character that asks", xlim=(-0.6, len(text) - 0.4)
    )
    return ax


def sink_by_seed(
    recorded: Mapping[str, Mapping[str, Sequence[float]]], live: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Draw per way of training, a dot per seed: the largest weight on the first token, and what a window adds to the loss."""
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.2), width_ratios=(2, 3))
    colors = dict(zip(recorded, (COLORS[0], COLORS[1]), strict=True))
    lines = {name.replace(" first", "\nfirst"): name for name in recorded}
    for place, (line, name) in enumerate(lines.items()):
        columns = {key: recorded[name]["share"] if key == line else [] for key in lines}
        now = {line: live[name]["share"]} if name in live else {}
        seed_dots(axes[0], columns, now, color=colors[name], marker="os"[place], label=None)
        added = {}
        for run in ("window", "window, 1 sink"):
            pairs = zip(recorded[name][run], recorded[name]["full"], strict=True)
            added[run.replace(", ", ",\n")] = [a - b for a, b in pairs]
        here = {
            run.replace(", ", ",\n"): live[name][run] - live[name]["full"]
            for run in ("window", "window, 1 sink")
            if name in live
        }
        seed_dots(axes[1], added, here, color=colors[name], marker="os"[place], aside=0.44 * place - 0.22, label=name)
    axes[0].set(ylabel="weight on the first token", ylim=(0, None))
    axes[1].axhline(0, color="#999999", linewidth=0.8)
    axes[1].set(ylabel="loss above that with all keys")
    axes[1].legend()
    return figure
