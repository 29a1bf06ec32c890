"""What somebody may have meant who asked for a name that there is none of."""

import difflib


def proposal(name: str | None, known: list[str]) -> str:
    """What may have been meant: names that are spelled alike, or all there are."""
    near = " or ".join(difflib.get_close_matches(name or "", known))
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"
