"""What every notebook calls."""

import subprocess
import sys

from attncourse import print_versions, show
from attncourse.notebook import without_checks
from attncourse.positions import RotaryEmbedding
from attncourse.softmax_attention import attention_scores, softmax_attention, softmax_attention_loop


def test_show_gives_the_source_that_runs_and_where_it_stands():
    shown = show(softmax_attention_loop, softmax_attention).data
    assert shown.startswith("```python\n# attncourse/softmax_attention/reference.py\ndef softmax_attention_loop(")
    assert "\n\n\n# attncourse/softmax_attention/reference.py\ndef softmax_attention(" in shown
    assert '"""' in shown and shown.endswith("\n```")


def test_show_folded_leaves_out_docstrings_and_checks_and_says_what_it_opens():
    shown = show(attention_scores, RotaryEmbedding, folded=True).data
    assert "<summary>The package's own: <code>attention_scores</code>, <code>RotaryEmbedding</code></summary>" in shown
    assert "scores = einsum(grouped" in shown and "class RotaryEmbedding(nn.Module):\n    def __init__" in shown
    assert not any(word in shown for word in ('"""', "check_", "require(", "raise "))
    compile(shown.partition("```python")[2].partition("```")[0], "shown", "exec")


CHECKED = '''
def f(x, y):
    """Say what it does."""
    check_pair(x, y)
    require(x > 0, "no")
    if x > 1:
        raise ValueError(x)

    if x > y:
        raise ValueError(x)
    else:
        x = y

    for part in x:
        check_pair(part, y)
    good = check_pair(x, y)
    return good
'''


def test_only_what_does_nothing_but_check_is_left_out():
    assert (
        without_checks(CHECKED.strip())
        == """\
def f(x, y):
    if x > y:
        raise ValueError(x)
    else:
        x = y

    for part in x:
        check_pair(part, y)
    good = check_pair(x, y)
    return good"""
    )


def test_print_versions_is_one_line(capsys):
    import torch

    print_versions()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert f"torch {torch.__version__}" in printed


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "attncourse", "--help"], capture_output=True, text=True, check=True)
    for command in ("grade", "release", "bootstrap", "point-at"):
        assert command in done.stdout
    for command in ("grade", "point-at"):
        done = subprocess.run(
            [sys.executable, "-m", "attncourse", command, "--help"], capture_output=True, text=True, check=True
        )
        assert "example" in done.stdout
