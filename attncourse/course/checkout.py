"""Where the whole course lies: notebooks and all, of which the installed package is a part."""

from pathlib import Path


def checkout() -> Path | None:
    """Return the folder around this package, where that is the course's own;
    None where the package is installed away from it.
    """
    around = Path(__file__).parents[2]
    return around if (around / "solutions").is_dir() else None


def no_checkout(needs: str, folder: Path, *, option: str = "--root") -> ValueError:
    """Return the error of a command that works on the whole course and does not find it.

    Args:
        needs: what the command looks for.
        folder: where it has looked.
        option: that which names another folder.
    """
    return ValueError(
        f"this needs {needs} of a checkout of the course, and {folder.resolve()} holds none: "
        f"clone your fork and run this in it, or say {option} FOLDER"
    )
