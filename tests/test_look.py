"""The look at the built book in a browser sees what keeps readers out, and passes a page that does not."""

import pytest

from tests import look_at_book
from tests.look_at_book import browser, main, problems

PAGE = """<!doctype html><html lang="en"><head><title>Page</title></head><body><main class="bd-article"><h1>Page</h1>
{}</main></body></html>"""


def found(body: str, folder) -> list[str]:
    (folder / "page.html").write_text(PAGE.format(body), encoding="utf-8")
    return [*problems([folder / "page.html"])]


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<p>Text.</p>", None),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "alternative text"),
        ('<p style="color: #ccc; background: #fff">pale</p>', "contrast"),
        (f'<pre tabindex="0" style="overflow-x: auto; width: 300px">{"x" * 200}</pre>', "scrolls sideways: xxx"),
        ('<a href="https://example.org"></a>', "discernible text"),
    ],
    ids=["right", "no-alt", "pale", "cut-off", "nameless-link"],
)
def test_what_keeps_readers_out_is_named(body, said, tmp_path):
    lines = found(body, tmp_path)
    assert lines == [] if said is None else any(said in line for line in lines), lines


def test_without_a_browser_it_is_said_that_nobody_looked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(look_at_book, "browser", lambda: None)
    monkeypatch.setattr("sys.argv", ["look_at_book", str(tmp_path)])
    assert main() == 1 and "not looked at" in capsys.readouterr().out
