"""What somebody may have meant who asked for a name that there is none of."""

import difflib


def proposal(name: str | None, known: list[str]) -> str:
    """Return what may have been meant by name: the `known` names that are spelled alike, or all there are."""
    near = " or ".join(difflib.get_close_matches(name or "", known))
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"
