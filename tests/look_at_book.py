"""Open built pages in Chromium as readers do, in light and in dark: `python -m tests.look_at_book _build/html`.

axe-core must find nothing serious, and at 1300 pixels no line of code and no table may run off its column.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from attncourse.course.chapters import pages

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
GRAVE = {"serious", "critical"}

# Elements of the text that hold more than they show, each as it begins.
CUT_OFF = """() => [...document.querySelectorAll('.bd-article *')].filter(e =>
    ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1
  ).map(e => e.innerText.slice(0, 60).replaceAll('\\n', ' '))"""


def browser() -> str | None:
    """Return the path of a Chromium, or None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def problems(paths: list[Path]) -> Iterator[str]:
    """Yield what readers of these pages would meet:
    those who do not see, who use a keyboard alone, or whose screen is small.
    """
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    # Formulas are MathJax's, and thousands of elements: it describes them itself.
    axe, seen = Axe(), {"include": [["body"]], "exclude": [["mjx-container"]]}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=[*QUIET])
        for scheme in ("light", "dark"):
            context = chromium.new_context(viewport={"width": 1300, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            for path in tqdm(paths, desc=scheme, file=sys.stderr):
                page.goto(path.resolve().as_uri())
                page.evaluate("async () => { await window.MathJax?.startup?.promise }")
                found = axe.run(page, context=seen, options={"resultTypes": ["violations"]}).response["violations"]
                for violation in (v for v in found if v["impact"] in GRAVE):
                    node = violation["nodes"][0]["html"][:120]
                    yield f"{path.name}, {scheme}: {violation['help']}, {len(violation['nodes'])} times, as {node}"
                if scheme == "light":
                    yield from (f"{path.name}: scrolls sideways: {text}" for text in page.evaluate(CUT_OFF))
            context.close()
        chromium.close()


def main() -> int:
    """Print every problem of the pages; 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("html", type=Path, help="the folder of the built book, _build/html")
    parser.add_argument("--pages", nargs="+", default=pages(ROOT), help="names of pages (default: all of the contents)")
    args = parser.parse_args()
    if browser() is None:
        print(f"not looked at: none of {', '.join(BROWSERS)} is installed")
        return 1
    found = [*problems([args.html / f"{name}.html" for name in args.pages])]
    print("\n".join(found) or f"{len(args.pages)} pages looked at in light and dark: nothing serious, nothing cut off")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
