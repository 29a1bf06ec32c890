"""Which of the installed packages a learner's code finds: what the exercises are written in, and what these need.

All others are hidden, since a package that happens to be installed beside the course may hold an exercise's answer.
"""

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

OFFERED = (
    "torch numpy einops jaxtyping triton matplotlib tqdm tabulate ipython ipywidgets safetensors "
    "scipy pandas sympy pillow beartype typeguard seaborn"
).split()
FOLDERS = ("site-packages", "dist-packages")


@cache
def offered_paths() -> tuple[Path, ...]:
    """Return files and folders of the installed packages that are offered, as they lie in their site-packages."""
    waiting, distributions = list(OFFERED), {}
    while waiting:
        name = _normal(waiting.pop())
        if name in distributions:
            continue
        try:
            distributions[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        # markers but for extras are not looked at: what is not installed is passed over
        needs = [need for need in distributions[name].requires or () if not re.search(r"\bextra\s*==", need)]
        waiting += [re.match(r"[\w.-]+", need)[0] for need in needs]
    return tuple(sorted({path for found in distributions.values() for path in _paths(found)}))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _paths(distribution: importlib.metadata.Distribution) -> set[Path]:
    """Return what lies of it beside other packages' in site-packages: its modules and its metadata, no start-up hooks."""
    if record := distribution.read_text("RECORD"):
        names = {re.split("[/,]", line.strip('"'), maxsplit=1)[0] for line in record.splitlines()}
    else:
        # packaged by a Linux distribution, without a list of its files
        names = {*(distribution.read_text("top_level.txt") or distribution.metadata["Name"]).split()}
        names |= {f"{name}.py" for name in names}
    paths = {Path(distribution.locate_file(name)) for name in names - {"..", "__pycache__"}}
    return {path for path in paths if path.suffix != ".pth" and path.exists()}


def package_folders(installations: set[Path]) -> set[Path]:
    """Return every folder of installed packages in these installations of Python,
    and those that this process imports from.
    """
    patterns = [f"{lib}/python3*/{kind}" for lib in ("lib*", "local/lib*") for kind in FOLDERS]
    found = {path for root in installations for pattern in patterns for path in root.glob(pattern)}
    return found | {Path(path) for path in sys.path if Path(path).name in FOLDERS}
