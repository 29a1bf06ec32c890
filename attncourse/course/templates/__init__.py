"""Jinja2 templates of what the commands write."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def template(name: str):
    """Return one template of this folder; markup is escaped in HTML, and a name that is not given is an error."""
    import jinja2  # comes with the extra for instructors

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=lambda name: name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
