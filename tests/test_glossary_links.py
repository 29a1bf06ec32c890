"""The first use of a glossary term on a page leads to its entry."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from attncourse.course.chapters import chapters
from tests.run_chapters import ROOT

EXTENSIONS = ROOT / "book" / "_extensions"
GLOSSARY = """# Glossary

```{glossary}
KV cache
  Keys and values, kept.

Head
  One attention. Taught in
  [](index.md).
```
"""
PAGE = """# A KV cache

Every head fills `head` and $head$. KV caches [of a head](glossary.md) grow; a KV cache is a kv cache. Ahead, heads.

```python
head = 1
```

```{toctree}
glossary
```
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Return the HTML of a page beside a glossary of two terms."""
    source = tmp_path_factory.mktemp("book")
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions = ['myst_parser', 'glossary_links']\nmyst_enable_extensions = ['dollarmath']\n",
        encoding="utf-8",
    )
    (source / "glossary.md").write_text(GLOSSARY, encoding="utf-8")
    (source / "index.md").write_text(PAGE, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(source), str(source / "html")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return (source / "html" / "index.html").read_text(encoding="utf-8")


def links(page: str) -> list[tuple[str, str, str]]:
    """Return (address, meaning, text) of each term that was linked."""
    found = re.findall(r'<a class="([^"]*)" href="([^"]*)" title="([^"]*)">([^<]*)</a>', page)
    return [rest for classes, *rest in found if "glossary-term" in classes]


def test_each_term_is_linked_once_with_its_meaning(page):
    assert links(page) == [
        ["glossary.html#term-Head", "One attention.", "head"],
        ["glossary.html#term-KV-cache", "Keys and values, kept.", "KV caches"],
    ]


def test_every_chapter_uses_terms_of_the_glossary():
    terms = re.findall(r"^(\S.*)\n  ", (ROOT / "book" / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(terms) > 50 and terms == sorted(terms, key=str.lower), "in the order in which a reader looks them up"
    for name in chapters(ROOT):
        text = Path(ROOT / "book" / f"{name}.ipynb").read_text(encoding="utf-8").lower()
        assert sum(term.lower() in text for term in terms) > 4, name
