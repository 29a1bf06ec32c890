"""A slider in a static page: frames drawn in advance, one shown at a time, without a network or a kernel."""

import base64
import io
import itertools
from html import escape

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

_numbers = itertools.count()

_PAGE = """
<figure class="attncourse-slider" id="{id}" style="margin: 0; max-width: 100%">
<img src="{first}" alt="{alt}" style="width: 100%; max-width: {width}px; display: block">
<label for="{id}-range" style="font-size: 0.9em">{label}: <output for="{id}-range">{first_name}</output></label><br>
<input type="range" id="{id}-range" min="0" max="{last}" value="0" step="1" style="width: min(100%, 26em)">
<script>
(function () {{
  const box = document.getElementById("{id}"), frames = [{frames}], names = [{names}];
  const slide = box.querySelector("input");
  slide.addEventListener("input", function () {{
    box.querySelector("img").src = frames[slide.value];
    box.querySelector("output").textContent = names[slide.value];
  }});
}})();
</script>
</figure>
"""


def slider(frames: dict[str, Figure], *, label: str, alt: str):
    """Show figures under a slider, which arrow keys move as well; each figure is closed after it is drawn.

    Args:
        frames: what the slider says at a stop -> the figure shown there, in order.
        label: what the slider changes.
        alt: what the figure shows, for those who do not see it.

    Raises:
        ValueError: there are fewer than two frames.
    """
    from IPython.display import HTML

    if len(frames) < 2:
        raise ValueError(f"a slider needs at least two frames, got {len(frames)}")
    pictures = [_as_data(figure) for figure in frames.values()]
    width = int(next(iter(frames.values())).get_figwidth() * 100)
    return HTML(
        _PAGE.format(
            id=f"slider-{next(_numbers)}", first=pictures[0], alt=escape(alt, quote=True), width=width,
            label=escape(label), first_name=escape(next(iter(frames))), last=len(frames) - 1,
            frames=", ".join(f'"{p}"' for p in pictures), names=", ".join(f'"{escape(n)}"' for n in frames),
        )
    )  # fmt: skip


def _as_data(figure: Figure) -> str:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=100)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
