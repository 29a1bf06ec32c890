"""What every notebook calls."""

import subprocess
import sys

from attncourse import print_versions, show
from attncourse.softmax_attention import softmax_attention, softmax_attention_loop


def test_show_gives_the_source_that_runs_and_where_it_stands():
    shown = show(softmax_attention_loop, softmax_attention).data
    assert shown.startswith("# attncourse/softmax_attention/reference.py\ndef softmax_attention_loop(")
    assert "\n\n\n# attncourse/softmax_attention/reference.py\ndef softmax_attention(" in shown


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
