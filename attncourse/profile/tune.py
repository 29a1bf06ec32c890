"""`attncourse tune`: measure candidates of tiles, warps and stages on this GPU, and write the fastest into the rooms' tables."""

import argparse
import ast
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from attncourse._shared.validate import require

from .command import add_device_option, check_device
from .device_facts import device_facts
from .tiles import DECODERS, PREFILL, Target, Trial, capability, decode_target, prefill_targets, try_all

ROOMS = DECODERS + PREFILL
WORTH = 1.03  # times as fast as what is there, or the table stays


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the shell's `tune` to the commands."""
    parser = commands.add_parser(
        "tune",
        description="Try candidates of tiles, warps and stages in the place of what each room's CONFIGS has, the near ones "
        "first: each is compiled, compared with the definition in float64, and timed alone. Shown is what was tried, best "
        "first. Nothing is changed without --write.",
        epilog="example: python -m attncourse tune --room grouped_query latent --minutes 10 --write",
    )
    add_device_option(parser)
    parser.add_argument("--room", nargs="+", choices=ROOMS, default=list(ROOMS), metavar="NAME",
                        help=f"some of {', '.join(ROOMS)} (default: all)")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long (default: %(default)g)")
    parser.add_argument("--write", action="store_true",
                        help=f"put what is at least {WORTH - 1:.0%}% faster into the tables, in the files of kernels; "
                        "compile records are to be made anew after that")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Try, show, and write if asked to."""
    check_device(args.device)
    require(args.minutes > 0, f"--minutes must be positive, got {args.minutes:g}")
    require(
        args.device == "cuda" or not args.write,
        "--write needs a GPU: on a CPU kernels are interpreted, and their times say nothing of a chip",
    )
    decoders = [decode_target(room, args.device) for room in args.room if room in DECODERS]
    prefill = [target for room in args.room if room in PREFILL for target in prefill_targets(room)]
    trials: dict[Target, list[Trial]] = {target: [] for target in [*decoders, *prefill]}
    end, late = time.monotonic() + 60 * args.minutes, 0
    progress = tqdm(total=sum(len(t.candidates(args.device)) for t in trials), file=sys.stderr, disable=None)
    try:
        for target, _, trial in try_all([*trials], args.device, left=lambda: end - time.monotonic()):
            progress.set_description_str(str(target))
            progress.update()
            if trial is None:
                late += 1
            else:
                trials[target].append(trial)
    finally:
        # Whatever ends it, what was tried until then is shown.
        progress.close()
        print(device_facts(args.device).name + "\n")
        for target, found in trials.items():
            print(describe(target, found))
    if late:
        print(f"{late} candidates were not tried: --minutes {args.minutes:g} were over")
    if args.device == "cpu":
        print("kernels were interpreted: these times say that the command runs, and nothing of a GPU")
    if args.write:
        write(trials)
    return 0


def timed(trials: Iterable[Trial]) -> tuple[list[Trial], Trial | None]:
    """Return those that were timed, best first, and what CONFIGS has; None where that was not timed."""
    found = sorted((trial for trial in trials if trial.seconds is not None), key=lambda trial: trial.seconds)
    return found, next((trial for trial in found if trial.now), None)


def describe(target: Target, trials: list[Trial]) -> str:
    """Return the candidates of an entry, best first, and how many could not run and why."""
    found, now = timed(trials)
    rows = [
        [" ".join(map(str, trial.config)), 1e6 * trial.seconds, now and trial.seconds / now.seconds, "now" * trial.now]
        for trial in found[:5] + [trial for trial in found[5:] if trial.now]
    ]
    lines = [f"{target}: {len(trials)} tried", tabulate(rows, headers=["config", "us", "of now", ""], floatfmt=".3g")]
    problems = [trial.problem for trial in trials if trial.problem]
    lines += [f"{problems.count(p)} did not run: {p}" for p in dict.fromkeys(problems)]
    if now is not None and found[0] is not now:
        lines.append(f"{now.seconds / found[0].seconds:.2f} times as fast by {found[0].config}")
    return "\n".join([*lines, ""])


def write(trials: Mapping[Target, list[Trial]]) -> None:
    """Put the fastest of each entry into its room's file, where it is worth it, and say so."""
    chip, changed = capability(), False
    for target, tried in trials.items():
        found, now = timed(tried)
        if not found or (now is not None and now.seconds < WORTH * found[0].seconds):
            continue
        best = found[0]
        row = target.configs | {target.width: best.config}
        target.take(best.config)
        path = Path(import_module(f"attncourse.{target.room}.kernel").__file__)
        path.write_text(with_row(path.read_text(encoding="utf-8"), target.which, chip, row), encoding="utf-8")
        print(f"written to {path}: {target} is {best.config} on sm_{chip}")
        changed = True
    print("now make compile-record, and make test" if changed else "nothing is faster than what the tables have")


def with_row(source: str, which: str, chip: int, row: Mapping[int, tuple[int, ...]]) -> str:
    """Return the source of a kernel whose CONFIGS has this row for a chip: in place of the chip's own, or as the last.

    Args:
        which: the table's key in CONFIGS, "" where CONFIGS is the table.
        row: {padded width: config}.

    Raises:
        ValueError: there is no such table.
    """
    table = _table(source, which)
    lines, keys = source.splitlines(keepends=True), [key.value for key in table.keys]
    before = keys.index(chip) if chip in keys else len(keys) - 1
    indent = " " * table.keys[before].col_offset
    text = f"{indent}{chip}: {{" + ", ".join(f"{width}: {tuple(config)}" for width, config in row.items()) + "},\n"
    first, last = table.keys[before].lineno - 1, table.values[before].end_lineno
    lines[first if chip in keys else last : last] = [text]
    return "".join(lines)


def _table(source: str, which: str) -> ast.Dict:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CONFIGS":
            tables = {key.value: value for key, value in zip(node.value.keys, node.value.values, strict=True)}
            require(not which or which in tables, f"CONFIGS has {', '.join(map(str, tables))}, and no {which}")
            return tables[which] if which else node.value
    raise ValueError("the source has no CONFIGS")
