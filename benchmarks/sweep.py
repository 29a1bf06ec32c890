"""Tiles, warps and stages of the kernels that matter most: every candidate that the chip takes, best first.

`python -m attncourse tune` does so for as long as one likes, for every room with such tables, and writes them.
"""

import os
import sys

from attncourse.profile.tiles import Target, Trial, decode_target, prefill_targets, try_all

from .report import Report, Told, told


def targets(where: str) -> list[Target]:
    """Return what is swept: the two decoders, and attention's three kernels at both widths."""
    softmax, decoders = (
        prefill_targets("softmax_attention"),
        [decode_target(r, where) for r in ("grouped_query", "latent")],
    )
    return [*softmax[:2], *decoders] if where == "cpu" else [*decoders, *softmax]


def sweep(report: Report, told: Told) -> None:
    """Try, round by round, until the time is over."""
    trials: dict[Target, list[Trial]] = {target: [] for target in targets(told.device)}
    late = 0
    for target, _, trial in try_all([*trials], told.device, left=lambda: told.left):
        if trial is None:
            late += 1
            continue
        trials[target].append(trial)
        if trial.now and trial.problem:
            report.failures.append(f"{target}, as CONFIGS has it: {trial.problem}")
        show(report, trials)
    if late:
        report.not_run.append(f"{late} candidates: no time was left")
    report.failures += [
        f"{target}: no time was left for what CONFIGS has" for target, found in trials.items() if not found
    ]


def show(report: Report, trials: dict[Target, list[Trial]]) -> None:
    """Print what was tried, best first, beside what CONFIGS has now."""
    words = []
    for target, found in trials.items():
        found = sorted(found, key=lambda trial: float("inf") if trial.seconds is None else trial.seconds)
        now = next((trial.seconds for trial in found if trial.now), None)
        if now:
            words.append(f"{target}: {now / found[0].seconds:.2f}x by {' '.join(map(str, found[0].config))}")
        report.table(f"{target}: config, best first", [_row(trial, now) for trial in found])
    tried_out = sum(map(len, trials.values()))
    report.words = f"{tried_out} candidates tried; " + "; ".join(words)
    report.save()


def _row(trial: Trial, now: float | None) -> dict:
    return {
        "config": " ".join(map(str, trial.config)), "now": "now" if trial.now else "",
        "us": trial.seconds and 1e6 * trial.seconds, "of now": trial.seconds and now and trial.seconds / now,
        "error": trial.error, "problem": trial.problem,
    }  # fmt: skip


def main() -> int:
    """Sweep."""
    given = told(__doc__)
    report = given.report
    report.save()
    sweep(report, given)
    if given.device == "cpu":
        report.not_run.append("every candidate but the nearest, and what the chip makes of it: not run, needs a GPU")
    return report.finish(report.words)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without waiting for checks that nobody asks for any more: who started this ends them
