"""One look for every figure: colours that stay apart in grey and for the colour-blind, no chart junk."""

import matplotlib as mpl

# Okabe and Ito's palette, told apart under every common colour blindness.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333"]
WEIGHTS = "Blues"  # colour map of attention weights: white is 0
SIGNED = "RdBu_r"  # colour map of scores and values: white is 0


def use_style() -> None:
    """Set matplotlib's defaults for the book; called once by each chapter."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": mpl.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "image.interpolation": "nearest",
        }
    )
