"""`python -m benchmarks OUT`: everything that needs a GPU, in at most eight minutes, written to OUT part by part."""

import argparse
import datetime
import os
import shlex
import sys
from pathlib import Path

from .stand_ins import absent

NO_GPU = 2
MINUTES = {"cuda": 8.0, "cpu": 30.0}


def parser() -> argparse.ArgumentParser:
    """Return the parser of what can be asked."""
    from .parts import PARTS

    parts = "; ".join(f"{part.letter} {part.name}: {part.what}" for part in PARTS)
    parser = argparse.ArgumentParser(
        prog="gpu.sh",
        description="Check and measure on a GPU what nothing else can: part by part, each a process with a limit of its own, "
        "each written to OUT as it ends. OUT/summary.md says what was found. Exit code 0: every part ran, and its checks "
        "held; 1: not so; 2: there is no GPU.",
        epilog=f"The parts: {parts}. PYTHON=python3 bash gpu.sh OUT takes another Python than that of .venv.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder that is written to")
    parser.add_argument("--dry", action="store_true", help="the same parts on a CPU, small: to see that all of it runs")
    parser.add_argument("--only", metavar="a,c", default="", help="these parts alone, by letter or name")
    parser.add_argument(
        "--minutes", type=float, help="in all; the parts' limits are shares of it (8, in the dry form 30)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked, and return the exit code."""
    command = parser()
    args = command.parse_args(arguments)
    parts = chosen(args.only, command)
    if args.dry:
        os.environ["ATTNCOURSE_DEVICE"] = "cpu"  # before the course is imported, which lets Triton interpret then
    try:
        import attncourse

        device = attncourse.device()
    except ValueError as error:  # the variable asks for what is not there
        print(f"gpu.sh: {error}", file=sys.stderr)
        return NO_GPU
    if device == "cpu" and not args.dry:
        print("gpu.sh: PyTorch sees no GPU here, or ATTNCOURSE_DEVICE=cpu hides it; --dry runs the same parts on the CPU",
              file=sys.stderr)  # fmt: skip
        return NO_GPU
    minutes = MINUTES[device] if args.minutes is None else args.minutes
    if not minutes > 0:
        command.error(f"--minutes must be positive, got {minutes}")
    if args.dry:
        print("The dry form: on the CPU, small. No time in it means anything.")
    from .parts import Run

    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        args.out.resolve(),
        device,
        facts(device, dry=args.dry, command=sys.argv[1:] if arguments is None else arguments),
    )
    passed = run.run(parts, minutes=minutes)
    print(f"{'All parts passed' if passed else 'Not all parts passed'}: {args.out / 'summary.md'}")
    return 0 if passed else 1


def chosen(only: str, command: argparse.ArgumentParser):
    """Return the parts of `--only`, in their own order; all of them where it is empty."""
    from .parts import PARTS

    wanted = {name.strip() for name in only.split(",") if name.strip()}
    unknown = wanted - {part.letter for part in PARTS} - {part.name for part in PARTS}
    if unknown:
        command.error(f"--only takes {', '.join(part.letter for part in PARTS)}, got {', '.join(sorted(unknown))}")
    return [part for part in PARTS if not wanted or {part.letter, part.name} & wanted]


def facts(device: str, *, dry: bool, command: list[str]) -> dict[str, str]:
    """Return what stands at the head of the summary."""
    import numpy as np

    from attncourse.profile.device_facts import device_facts, versions

    found = device_facts(device)
    software = versions() | {"numpy": np.__version__}
    missing = absent()
    return {
        "device": found.name,
        "memory": f"{found.memory / 1e9:.0f} GB",
        "driver": found.driver or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in software.items()),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["gpu.sh", *command]),
        "form": "dry: on the CPU, small, no time means anything" if dry else "on the GPU",
        "not installed here": ", ".join(missing) if missing else "nothing that a part asks for",
    }


if __name__ == "__main__":
    sys.exit(main())
