"""Pictures of latent attention: where one form overtakes the other, what designs of equal cache learn, what conversion loses."""

import statistics

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attncourse.plot import seed_dots
from attncourse.plot.style import COLORS

GREY = "#777777"
STUDENT = {5: 2.776, 8: 2.365, 10: 2.262}  # by how many differences there are
MARKERS = ("o-", "s--", "^:", "D-.")


def energy_against_rank(curves: dict[str, list[float]], *, share: float) -> Axes:
    """Draw how much of the squared length of keys and values the first directions hold; a line at a share of it.

    Args:
        curves: by name, the share that the first 1, 2, 3, ... directions hold; a name with "before" is dashed.
        share: where the line is drawn.
    """
    _, ax = plt.subplots(figsize=(6.0, 3.4))
    for (name, values), color in zip(curves.items(), COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values, "--" if "before" in name else "-", color=color, label=name)
    ax.axhline(share, color=GREY, linewidth=1, zorder=0)
    ax.annotate(f"{share:g}", (0.99, share), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    ax.set(xlabel="directions kept", ylabel="share of the energy", ylim=(0, 1.07), xlim=(0, None))
    ax.legend(loc="lower right")
    return ax


def losses_of_designs(
    recorded: dict[str, list[float]], live: dict[str, float], *, numbers: dict[str, int], pairs: list[tuple[str, str]]
) -> Figure:
    """Draw the loss of every design, a dot per seed, and beside it differences between pairs of designs, seed by seed.

    Args:
        recorded, live: held-out losses by design.
        numbers: what a token leaves in the cache of a layer, by design.
        pairs: (a, b) draws the losses of a minus those of b, and the 95 percent interval of their mean.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.9), width_ratios=(1.5, 1))
    wrapped = {name: name.replace(", ", "\n").replace("-", "-\n") + f"\n({numbers[name]})" for name in recorded}
    seed_dots(left, {wrapped[x]: y for x, y in recorded.items()}, {wrapped[x]: y for x, y in live.items()})
    left.set(ylabel="held-out loss, nats per character", xlabel="design (numbers per token and layer)")
    left.legend()
    for place, (a, b) in enumerate(pairs):
        differences = [x - y for x, y in zip(recorded[a], recorded[b], strict=True)]
        mean, low, high = interval(differences)
        right.plot(differences, [place + 0.16] * len(differences), "o", color=COLORS[0], markersize=4, alpha=0.6)
        right.errorbar(
            mean, place - 0.08, xerr=[[mean - low], [high - mean]], fmt="D", color=COLORS[1], capsize=4, markersize=5
        )
    right.axvline(0, color=GREY, linewidth=1, zorder=0)
    right.set_yticks(range(len(pairs)), [f"{a}\nminus {b}" for a, b in pairs])
    right.set(xlabel="difference, nats per character", ylim=(len(pairs) - 0.5, -0.6))
    return figure


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Return the mean of five, eight or ten differences and the ends of its 95 percent interval, by Student's t."""
    mean = statistics.fmean(differences)
    reach = STUDENT[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return mean, mean - reach, mean + reach


def losses_of_conversion(
    recorded: dict[str, dict[str, list[float]]], live: dict[str, dict[str, float]], *, ylabels: tuple[str, str]
) -> Figure:
    """Draw two measures of a conversion against the rank of the latents: a dot per seed, each way to convert in a colour.

    Args:
        recorded: measure -> way -> rank -> a value per seed.
        live: measure -> way -> rank -> the value of the model converted here.
        ylabels: what the two measures are.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.6))
    for ax, measure, ylabel in zip(axes, recorded, ylabels, strict=True):
        for (way, by_rank), marker, color, aside in zip(
            recorded[measure].items(), "os", COLORS, (-0.22, 0.22), strict=False
        ):
            seed_dots(ax, by_rank, live[measure][way], color=color, marker=marker, aside=aside, label=way)
        ax.set(yscale="log", xlabel="rank of the latents", ylabel=ylabel)
    axes[0].legend()
    return figure


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
        ax.axvline(predicted, color=GREY, linewidth=1, zorder=0)
        ax.set(xscale="log", yscale="log", xlabel="queries", ylabel=ylabel)
        ax.set_xticks(queries, [str(t) for t in queries])
        ax.minorticks_off()
    axes[0].annotate("predicted", (predicted, 0.03), xycoords=("data", "axes fraction"), xytext=(4, 0),
                     textcoords="offset points", fontsize=9)  # fmt: skip
    axes[0].legend()
    return figure
