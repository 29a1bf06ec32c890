"""`python -m benchmarks.promises [--rooms ...]`: what the rooms promise of time and memory, measured on this machine."""

import argparse
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tabulate import tabulate

from attncourse.profile import describe_device
from attncourse.profile.command import add_device_option, check_device

from .measured_row import ROOMS, Row, measure_room


def judge(row: Row) -> tuple[str, str, str]:
    """Return the measured ratio, the wanted one, and the verdict."""
    growth = row.unit == "growth"
    wanted = f"{'at most' if growth else 'at least'} {row.wanted:g}x"
    if math.isnan(row.ours) or math.isnan(row.theirs):
        return "", wanted, "could not run"
    if math.isinf(row.ours):
        return "", wanted, "out of memory"
    ratio = row.ours / row.theirs if row.unit in ("growth", "bandwidth") else row.theirs / row.ours
    met = ratio <= row.wanted if growth else ratio >= row.wanted
    measured = "theirs is out of memory" if math.isinf(row.theirs) else f"{ratio:.2f}x"
    return measured, wanted, "met" if met else "missed"


def main() -> None:
    """Measure and print one table; a room that fails, or is killed for its memory, costs its own lines alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promises", description=__doc__)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=ROOMS, metavar="ROOM",
                        help=f"some of {', '.join(ROOMS)} (default: all)")  # fmt: skip
    add_device_option(parser)
    arguments = parser.parse_args()
    try:
        check_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    table = []
    for room in arguments.rooms:
        try:
            # A process of its own: a machine without memory kills whoever asks, and the table must outlive that.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows = pool.submit(measure_room, room, arguments.device).result()
        except Exception as error:
            table.append([room, "all of it", "", "", "", f"could not run: {type(error).__name__}: {error}"[:120]])
            continue
        table += [[room, row.what, row.unit, *judge(row)] for row in rows]
    print(tabulate(table, headers=["room", "what", "kind", "measured", "wanted", "verdict"], disable_numparse=True))
    print(describe_device(arguments.device))


if __name__ == "__main__":
    main()
