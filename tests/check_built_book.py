"""Look at a built book as a reader without a network would: `python -m tests.check_built_book _build/html`."""

import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import yaml
from bs4 import BeautifulSoup

from attncourse.course.chapters import pages

ROOT = Path(__file__).parents[1]


def defects(page: Path) -> list[str]:
    """Return what a reader would trip over: a traceback, text on stderr, a missing picture, a script from elsewhere, a chapter
    whose terms lead nowhere.
    """
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    found = []
    if soup.select(".output.traceback, .nboutput .stderr, .output.stderr"):
        found.append("an output cell shows a traceback or text on stderr")
    if (ROOT / "book" / f"{page.stem}.ipynb").exists() and not soup.select("a.glossary-term[title]"):
        found.append("no term leads to the glossary")
    for tag, attribute in (("img", "src"), ("script", "src"), ("link[rel=stylesheet]", "href")):
        for element in soup.select(tag):
            target = urlparse(element.get(attribute, ""))
            if target.scheme == "data" or not target.path:
                continue
            if target.scheme or target.netloc:
                found.append(f"<{tag}> comes from outside: {target.geturl()}")
            elif not (page.parent / unquote(target.path)).exists():
                found.append(f"<{tag}> points to nothing: {target.path}")
    return found


def lost_addresses(html: Path) -> list[str]:
    """Return old addresses of pages that lead nowhere."""
    redirects = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]["redirects"]
    found = []
    for old, new in redirects.items():
        page = html / f"{old}.html"
        if not page.exists() or new not in page.read_text(encoding="utf-8") or not (html / new).exists():
            found.append(f"{old}: does not lead to {new}")
    return found


def main(html: Path) -> int:
    """Print every defect of every expected page; return 1 where there is one."""
    problems, expected = [], pages(ROOT)
    for name in expected:
        page = html / f"{name}.html"
        problems += [f"{name}: {defect}" for defect in defects(page)] if page.exists() else [f"{name}: not built"]
    problems += lost_addresses(html)
    print("\n".join(problems) or f"{len(expected)} pages checked: no traceback, nothing missing, nothing from outside")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
