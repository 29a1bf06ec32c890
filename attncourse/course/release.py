"""What authors of exercises run: release, which makes of each solution the notebook that learners get."""

from pathlib import Path

from .checkout import no_checkout

# nbgrader's own order in generate_assignment, without what needs its database or a kernel.
PREPROCESSORS = (
    "LockCells",
    "ClearSolutions",
    "ClearOutput",
    "CheckCellMetadata",
    "ComputeChecksums",
    "ClearHiddenTests",
    "ClearMarkScheme",
    "ComputeChecksums",
    "CheckCellMetadata",
)


def release_exercises(root: Path, out: Path | None = None) -> list[Path]:
    """Write exercises/<unit>/<unit>.ipynb from each solutions/<unit>/<unit>.ipynb, and return the files that changed.

    Args:
        root: a checkout of the course.
        out: where to write instead of the checkout's exercises/.

    Raises:
        ValueError: there is no solution, one lies under another name than its folder's, or one breaks nbgrader's rules.
    """
    out, sources = out or root / "exercises", sorted((root / "solutions").glob("*/*.ipynb"))
    if not sources:
        raise no_checkout("the solutions", root)
    changed = []
    for source in sources:
        if source.stem != source.parent.name:
            raise ValueError(f"a unit's notebook is named as its folder: {source} is not {source.parent.name}.ipynb")
        target = out / source.stem / source.name
        text = released(source, root / "nbgrader_config.py")
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            changed.append(target)
    return changed


def released(source: Path, config: Path) -> str:
    """Return the text of the notebook that learners get of one solution.

    Raises:
        ValueError: nbgrader refuses the notebook; the message is nbgrader's.
    """
    import nbformat
    from nbgrader import preprocessors
    from traitlets.config import PyFileConfigLoader

    from attncourse import __version__

    settings = PyFileConfigLoader(config.name, path=str(config.parent)).load_config()
    notebook, resources = nbformat.read(source, as_version=4), {}
    for name in PREPROCESSORS:
        try:
            notebook, resources = getattr(preprocessors, name)(config=settings).preprocess(notebook, resources)
        except RuntimeError as error:
            raise ValueError(f"{source}: {error}") from error
    notebook.metadata["attncourse"] = {"unit": source.stem, "version": __version__}
    return nbformat.writes(notebook) + "\n"


def add_parsers(commands) -> None:
    """Add the shell's `release` to the commands."""
    parser = commands.add_parser(
        "release",
        description="Write what learners get: solutions and hidden tests cut out by nbgrader's own preprocessors.",
        epilog="example: python -m attncourse release",
    )
    parser.add_argument("--root", type=Path, default=Path("."), help="a checkout of the course (default: here)")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Release, and say what changed."""
    changed = release_exercises(args.root)
    print("\n".join(f"changed {path}" for path in changed) or "nothing to change")
    return 0
