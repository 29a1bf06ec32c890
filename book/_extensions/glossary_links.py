"""Link the first use of each glossary term on a page to its entry, whose text shows under the pointer.

Notebooks keep plain words, which read well outside the book too. Headings, code, formulas and links stay as they are.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "glossary"
UNTOUCHED = (
    nodes.title, nodes.reference, nodes.citation, nodes.caption, nodes.literal, nodes.literal_block, nodes.math, nodes.raw,
)  # fmt: skip


def glossary_entries(doctree: nodes.document) -> dict[str, tuple[str, str]]:
    """Return (anchor, meaning) by term in lower case, from the glossary's page."""
    entries = {}
    for item in doctree.findall(nodes.definition_list_item):
        meaning = re.split(r"\sTaught in\s", item[-1].astext())[0]
        for term in item.findall(nodes.term):
            entries[term.astext().lower()] = term["ids"][0], " ".join(meaning.split())
    return entries


def link_first_uses(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Replace the first use of each term on a page by a link."""
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs:
        return
    left = glossary_entries(app.env.get_doctree(GLOSSARY))
    target = app.builder.get_relative_uri(page, GLOSSARY)
    for text in list(doctree.findall(nodes.Text)):
        if left and not _stands_in(text, UNTOUCHED):
            pieces = _linked(text.astext(), left, target)
            if len(pieces) > 1:
                text.parent.replace(text, pieces)


def _linked(
    text: str, left: dict[str, tuple[str, str]], target: str
) -> list[nodes.Node]:
    """Return the text in pieces, terms among them as links, and take those terms out of `left`."""
    longest_first = sorted(map(re.escape, left), key=len, reverse=True)
    pieces, end = [], 0
    for match in re.finditer(
        rf"\b({'|'.join(longest_first)})s?\b", text, flags=re.IGNORECASE
    ):
        term = match[1].lower()
        if term not in left:
            continue
        anchor, meaning = left.pop(term)
        link = nodes.reference(
            "", match[0], internal=True, refuri=f"{target}#{anchor}", reftitle=meaning
        )
        link["classes"].append("glossary-term")
        pieces += [nodes.Text(text[end : match.start()]), link]
        end = match.end()
    return [*pieces, nodes.Text(text[end:])]


def _stands_in(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    """Return whether a node has an ancestor of one of these kinds."""
    while (node := node.parent) is not None:
        if isinstance(node, kinds):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", link_first_uses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
