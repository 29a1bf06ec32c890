"""Link the first use of each glossary term on a page to its entry, whose text shows under the pointer.

Notebooks keep plain words, which read well outside the book too. Headings, code, formulas and links stay as they are.
"""

import re
from functools import cache

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

GLOSSARY = "glossary"
UNTOUCHED = (
    nodes.title, nodes.reference, nodes.citation, nodes.caption, nodes.literal, nodes.literal_block, nodes.math, nodes.raw,
)  # fmt: skip


@cache
def glossary_entries(env: BuildEnvironment) -> dict[str, tuple[str, str]]:
    """Return (anchor, meaning) by term in lower case, read once per build."""
    entries = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        meaning = re.split(r"\sTaught in\s", item[-1].astext())[0]
        for term in item.findall(nodes.term):
            entries[term.astext().lower()] = term["ids"][0], " ".join(meaning.split())
    return entries


def link_first_uses(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Replace the first use of each term on a page by a link."""
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs:
        return
    left = dict(glossary_entries(app.env))
    longest_first = sorted(map(re.escape, left), key=len, reverse=True)
    terms = re.compile(rf"\b({'|'.join(longest_first)})s?\b", re.IGNORECASE)
    target = app.builder.get_relative_uri(page, GLOSSARY)
    for text in list(doctree.findall(nodes.Text)):
        if not _stands_in(text, UNTOUCHED):
            pieces = _linked(text.astext(), terms, left, target)
            if len(pieces) > 1:
                text.parent.replace(text, pieces)


def _linked(
    text: str, terms: re.Pattern, left: dict[str, tuple[str, str]], target: str
) -> list[nodes.Node]:
    """Return text in pieces, terms that are left as links; these are left no more."""
    pieces, end = [], 0
    for match in terms.finditer(text):
        if match[1].lower() not in left:
            continue
        anchor, meaning = left.pop(match[1].lower())
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
