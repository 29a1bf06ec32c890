"""Five scores, five seeds each, and three of them trained three times as long: some ten minutes of one core.

Writes the record that the chapter draws, and the README's picture of five models' alignments.
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from attncourse.models.dates import Example
from attncourse.models.study import STUDIES, Study, read_study, write_study
from attncourse.plot import use_style

from .figures import five_alignments
from .training import SCORES, STEPS, date_lists, is_short_pair, measure, own_item, trained, write

NAME, COMMAND = "short_history_scores", "python -m attncourse.lessons.short_history.study"
SEEDS = {STEPS: 5, 3 * STEPS: 3}  # by number of steps
MOST_WORDS = 11  # of the source whose alignments are drawn: five panels of it fit on a page
PICTURE = STUDIES.parents[1] / "_static" / "alignments.png"


def study() -> dict:
    """Train and measure all; return the runs, and the alignments of seed 0 for one source."""
    examples, held_out = date_lists()
    plan = [(score, seed, steps) for steps, count in SEEDS.items() for seed in range(count) for score in SCORES]
    runs, answers = [], {}
    for score, seed, steps in tqdm(plan, desc="training"):
        model = trained(score, examples, seed=seed, steps=steps)
        right, own = measure(model, held_out)
        runs.append({"score": score, "seed": seed, "steps": steps, "right": right, "own_item": round(own, 3)})
        tqdm.write(str(runs[-1]))
        if (seed, steps) == (0, STEPS):
            answers[score] = write(model, held_out)
    i = _shown(held_out, {name: [text for text, _ in answer] for name, answer in answers.items()})
    panels = {name: {"written": answer[i][0], "percent": _percent(answer[i][1])} for name, answer in answers.items()}
    return {"runs": runs, "held_out": len(held_out), "source": list(held_out[i].source), "panels": panels}


def _shown(examples: list[Example], written: dict[str, list[str]]) -> int:
    """Return the longest short pair that all models write right."""
    right = [i for i, e in enumerate(examples) if all(texts[i] == e.target for texts in written.values())]
    return max((i for i in right if is_short_pair(examples[i], MOST_WORDS)), key=lambda i: len(examples[i].source))


def _percent(weights: torch.Tensor) -> list[list[int]]:
    return (100 * weights).round().int().tolist()


def shown_alignments(recorded: Study) -> dict:
    """Return what `five_alignments` draws of a record."""
    source, panels = recorded.results["source"], recorded.results["panels"]
    example = Example(tuple(source), next(iter(panels.values()))["written"])
    return {"source": source, "panels": panels, "own": own_item(example)}


def draw_picture(recorded: Study, path: Path = PICTURE) -> None:
    """Draw the README's picture of a record."""
    use_style()
    figure = five_alignments(**shown_alignments(recorded), columns=3)
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Make the record and the picture, or the picture alone."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--picture", action="store_true", help="draw the README's picture of the record that is there")
    if not parser.parse_args(arguments).picture:
        begin = time.process_time()  # of one thread: what it takes where nothing else runs
        write_study(NAME, study(), seconds=time.process_time() - begin, command=COMMAND)
    draw_picture(read_study(NAME))


if __name__ == "__main__":
    main()
