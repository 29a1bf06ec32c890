"""What every chapter gives its reader: a first screen, a picture before code, numbers for sentences, questions to answer."""

import ast
import re
from itertools import pairwise

import nbformat
import pytest
from markdown_it import MarkdownIt

from attncourse.course.chapters import chapters
from tests.run_chapters import ROOT

CHAPTERS = chapters(ROOT)
COLUMNS = 88
HIDDEN = {"hide-input", "hide-cell", "remove-input"}

FIRST_SCREEN = re.compile(
    r"# [^\n]+\n\n(?P<question>[^\n]+(\n[^\n]+)*)\n\n\*\*By the end you will\*\*\n\n?(- [^\n]+(\n  [^\n]+)*\n){3}\n"
    r"\*\*Time:\*\* about \d+ minutes\. \*\*Before this:\*\* [^\n]+"
)


@pytest.fixture(params=CHAPTERS)
def cells(request):
    return nbformat.read(ROOT / "book" / f"{request.param}.ipynb", as_version=4).cells


def text_of(cells) -> str:
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def code_of(cell) -> ast.Module:
    return ast.parse(re.sub(r"^( *)[%!].*", r"\1pass", cell.source, flags=re.MULTILINE))


def has_figure(cell) -> bool:
    return cell.cell_type == "code" and "alt" in cell.metadata.get("mystnb", {}).get("image", {})


def visible(cell) -> bool:
    return cell.cell_type == "code" and not HIDDEN & set(cell.metadata.get("tags", []))


def says_nothing_computed(call: ast.Call) -> bool:
    """Whether all that a call of print is given stands in the source."""
    return all(isinstance(part, ast.Constant) for part in [*call.args, *(word.value for word in call.keywords)])


def test_the_first_screen_says_question_aims_time_and_what_comes_before(cells):
    title = cells[0].source
    assert FIRST_SCREEN.match(title), title
    question = FIRST_SCREEN.match(title)["question"]
    assert "?" in question, question


END = [
    "What we found",
    "What it costs",
    "Where it fails",
    "Check yourself",
    "Change this",
    "Exercises",
    "References",
    "What comes next",
]


def test_every_chapter_ends_with_the_same_sections(cells):
    headings = re.findall(r"^## (.+)$", text_of(cells), flags=re.MULTILINE)
    end = END if headings[-1] == END[-1] else END[:-1]  # the last chapter has nothing to come
    assert headings[-len(end) :] == end


def test_a_picture_stands_above_any_code(cells):
    first = next(i for i, cell in enumerate(cells) if has_figure(cell))
    assert first <= 4 and not any(visible(cell) for cell in cells[: first + 1])


def test_what_is_printed_was_computed(cells):
    constant = [
        f"{cell.id}: {ast.unparse(node)}"
        for cell in cells
        if cell.cell_type == "code"
        for node in ast.walk(code_of(cell))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if says_nothing_computed(node)
    ]
    assert constant == []


@pytest.mark.parametrize(
    ("call", "constant"),
    [("print('right')", True), ("print()", True), ("print(f'{x}')", False), ("print('x', x)", False)],
)
def test_a_print_of_fixed_words_is_told_from_one_of_a_value(call, constant):
    assert says_nothing_computed(ast.parse(call).body[0].value) == constant


def test_code_and_output_fit_the_page(cells):
    code = [cell for cell in cells if cell.cell_type == "code" and "bootstrap" not in cell.metadata.get("tags", [])]
    assert [f"{c.id}: {line}" for c in code for line in c.source.splitlines() if len(line) > COLUMNS] == []
    shown = [(c.id, o.get("text", "")) for c in code for o in c.outputs]
    assert [f"{name}: {line}" for name, text in shown for line in text.splitlines() if len(line) > 100] == []


def test_the_reader_predicts_recalls_and_is_asked(cells):
    text = text_of(cells)
    assert "> **Predict.**" in text
    sections = re.findall(r"^## .+", text, flags=re.MULTILINE)
    assert text.count("**In short.**") >= 3, f"of {len(sections)} sections"
    assert "> **In today's systems.**" in text
    assert "## Change this" in sections


def test_three_questions_explain_every_choice(cells):
    text = text_of(cells)
    part = re.search(r"^## Check yourself$(.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL)[1]
    questions = [q for q in re.split(r"^(?=\*\*)", part, flags=re.MULTILINE) if q.startswith("**")]
    assert len(questions) == 3, questions
    for question in questions:
        choices = re.findall(r"<details>\s*<summary>(.+?)</summary>\s*(.+?)\s*</details>", question, flags=re.DOTALL)
        assert len(choices) >= 3, question
        assert all(len(why.split()) >= 4 for _, why in choices), question


def taken_for_markup(text: str) -> list[str]:
    """Return words of prose that Markdown reads otherwise: a wrapped line that begins a list, stars that are left over."""
    lines = text.split("\n")
    in_a_list = re.compile(r"\s*(\d+[.)]|[-+*>]) | {2,}\S")
    begun = [
        line
        for before, line in pairwise(lines)
        if re.match(r" {0,3}(1[.)]|[-+*]) ", line) and before and before[-1] != ":" and not in_a_list.match(before)
    ]
    plain = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|```.*?```", "formula", text, flags=re.DOTALL)
    inline = (token for token in MarkdownIt("commonmark").parse(plain) if token.type == "inline")
    words = [part.content for token in inline for part in token.children if part.type == "text"]
    return begun + [word for word in words if "*" in word]


@pytest.mark.parametrize("name", chapters(ROOT))
def test_prose_is_not_taken_for_markup(name):
    cells = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells
    texts = {cell.id: taken_for_markup(cell.source) for cell in cells if cell.cell_type == "markdown"}
    assert {cell: found for cell, found in texts.items() if found} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("makes them sum to\n1. So it is", 1),
        ("*the row of* flag *lies on* blue*, as below.*", 1),
        ("a list follows:\n- one\n- two\n  more\n- three", 0),
        ("*a caption* with $a * b$ in it", 0),
    ],
)
def test_words_that_markdown_reads_otherwise_are_seen(text, found):
    assert len(taken_for_markup(text)) == found
