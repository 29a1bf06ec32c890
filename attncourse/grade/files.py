"""What people are given: text that no program obeys, in files that are whole."""

import os
import re
import unicodedata
from pathlib import Path

PARTING = "\t\n\v\f\r\x85\u2028\u2029"


def inert(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, wherever it is pasted and at whatever it separates cells.

    Characters that steer (controls, and those that turn the direction of writing) are left out, or blanks where they
    part words.
    """
    text = "".join(" " if c in PARTING else c for c in text if c in PARTING or not _steers(c))
    return re.sub(r"""(^|[,;|])(?=[\s"]*[=+\-@＝＋－＠﹢﹣﹫])""", r"\1'", text)


def _steers(character: str) -> bool:
    # the joiners, which are letters' in many scripts, steer nothing
    return unicodedata.category(character) in ("Cc", "Cf") and character not in "\u200c\u200d"


def first_line(text: str, most: int = 200) -> str:
    """Return the head of a text, on one line, without what would steer a terminal."""
    line = "".join(c if c.isprintable() else " " for c in text.strip().partition("\n")[0])
    return line if len(line) <= most else line[: most - 4] + " ..."


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, in UTF-8 on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
