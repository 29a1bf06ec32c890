"""Static pages: one file each, with style and pictures inside, that opens offline, prints, and runs no script."""

import base64
from functools import cache
from pathlib import Path

from ..files import write_whole

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **values) -> Path:
    """Render a template of this package to a file. Whatever stands in `values` is text, never HTML."""
    write_whole(path, _environment().get_template(template).render(values))
    return path


@cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_data(png: bytes) -> str:
    """Return the address of a picture that stands in the page itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
