"""The page of translations: every line of it that runs on a CPU gives what it says."""

import ast
import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "book" / "translations.md").read_text(encoding="utf-8")
COMMON = "This course's conventions"
NOT_RUN = ("FlashAttention", "flash-linear-attention (fla)", "FlashInfer", "vLLM")


def sections() -> dict[str, str]:
    """The page's text by heading."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def code_of(text: str) -> str:
    """The Python that a section begins with."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def pairs_of(text: str) -> list[tuple[str, str]]:
    """Ours and theirs of each pair of code blocks of a section."""
    block = r"```\{code-block\} (?:python|text)\n:caption: %s\n(.*?)\n```"
    pairs = re.findall(block % "attncourse" + r"\n\n" + block % r"[^\n]+", text, flags=re.DOTALL)
    return [(ours, theirs) for ours, theirs in pairs]


SECTIONS = sections()
RUN = [name for name in SECTIONS if name != COMMON and name not in NOT_RUN]
SAME, DIFFERENT = [], []
for name in RUN:
    same, _, different = SECTIONS[name].partition("\n### Looks alike, and is not")
    SAME += [(name, *pair) for pair in pairs_of(same)]
    DIFFERENT += [(name, *pair) for pair in pairs_of(different)]


@pytest.fixture(scope="module")
def namespaces() -> dict[str, dict]:
    """What the names of each section mean, from the page's own code."""
    found = {}
    for name in RUN:
        torch.manual_seed(0)
        found[name] = {}
        exec(code_of(SECTIONS[COMMON]) + "\n" + code_of(SECTIONS[name]), found[name])
    return found


def both(namespaces, section, here, there):
    """What the two lines give, floating-point numbers as the tensors or tuples that they are."""
    with torch.no_grad():
        return eval(here, dict(namespaces[section])), eval(there, dict(namespaces[section]))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("section", "here", "there"), SAME, ids=lambda x: x[:60])
def test_both_lines_give_the_same(section, here, there, namespaces):
    ours, theirs = both(namespaces, section, here, there)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("section", "here", "there"), DIFFERENT, ids=lambda x: x[:60])
def test_what_looks_alike_is_not_the_same(section, here, there, namespaces):
    ours, theirs = both(namespaces, section, here, there)
    assert ours.shape == theirs.shape and ours.isfinite().all()
    assert not (ours - theirs).abs().max() < 0.05, "NaN differs too"


def test_no_pair_escapes():
    blocks = re.findall(r"^:caption: (.+)$", PAGE, flags=re.MULTILINE)
    assert blocks[::2] == ["attncourse"] * (len(blocks) // 2) and "attncourse" not in blocks[1::2]
    assert len(blocks) // 2 == len(SAME) + len(DIFFERENT) + sum(len(pairs_of(SECTIONS[name])) for name in NOT_RUN)
    assert (
        len(SAME) >= 30
        and len(DIFFERENT) >= 5
        and all(pairs_of(text) for name, text in SECTIONS.items() if name != COMMON)
    )


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_was_not_run_says_so_and_where_it_is_from(name):
    assert "Not run: " in SECTIONS[name] and "https://" in SECTIONS[name]
    for _, there in pairs_of(SECTIONS[name]):
        ast.parse(there)


def test_the_versions_are_those_that_run():
    transformers = pytest.importorskip("transformers")
    for name, module in (("torch", torch), ("transformers", transformers)):
        version = ".".join(module.__version__.split(".")[:2])
        assert f"{name} {version}" in PAGE
