"""The page of notation and conventions: its code runs."""

import re
from pathlib import Path

BOOK = Path(__file__).parents[1] / "book"
PAGE = (BOOK / "notation.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs_as_it_stands():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert code.count("assert") >= 7
    exec(code, {})


def test_each_convention_has_a_row_with_three_columns():
    conventions = PAGE.partition("## Conventions")[2]
    rows = [line for line in conventions.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) >= 9 and {row.replace(r"\|", "").count("|") for row in rows} == {4}
