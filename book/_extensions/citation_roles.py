"""Take the role of a list from citations: docutils gives it to a list whose entries are none, which readers aloud refuse."""

from sphinx.application import Sphinx


def drop_list_role(
    app: Sphinx, page: str, template: str, context: dict, doctree
) -> None:
    """Change the body of a page that has citations."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("html-page-context", drop_list_role)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
