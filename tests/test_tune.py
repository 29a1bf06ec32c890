"""`attncourse tune`: candidates are tried in the rooms' own tables, and what is faster is written where it stands."""

import ast
from importlib import import_module

import pytest

pytest.importorskip("triton", reason="Triton is on Linux alone")
from attncourse.__main__ import main
from attncourse.profile import tune
from attncourse.profile.tiles import PREFILL, Target, Trial, prefill_targets, try_all
from tests.test_gpu_script import on_a_cpu
from tests.test_rooms import PACKAGE, ROOMS

SOURCE = '''"""A kernel."""

# Why these.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1)},
        80: {64: (64, 64, 4, 3), 128: (64, 32, 4, 3)},
        90: {64: (1, 2, 3, 4)},  # of Hopper
    },
    "bwd": {80: {64: (16, 16, 4, 1)}},
}
AFTER = 1
'''
FLAT = "CONFIGS = {\n    80: {\n        64: (64, 64, 4, 3),\n    },\n}\n"


def configs(source: str) -> dict:
    tree = ast.parse(source)
    return next(ast.literal_eval(node.value) for node in tree.body if getattr(node, "targets", None))


def test_a_row_takes_the_place_of_the_chip_s_own_and_nothing_else_changes():
    row = {64: (128, 64, 4, 3), 128: (64, 32, 8, 2)}
    got = tune.with_row(SOURCE, "fwd", 80, row)
    wanted = configs(SOURCE)
    wanted["fwd"][80] = row
    assert configs(got) == wanted
    changed = [line for line in got.splitlines() if line not in SOURCE.splitlines()]
    assert changed == ["        80: {64: (128, 64, 4, 3), 128: (64, 32, 8, 2)},"]
    assert tune.with_row(got, "fwd", 80, row) == got
    assert configs(tune.with_row(FLAT, "", 80, {64: (1, 1, 1)})) == {80: {64: (1, 1, 1)}}


def test_a_chip_that_has_no_row_gets_one_after_the_others():
    got = tune.with_row(SOURCE, "fwd", 100, {64: (9, 9, 9, 9)})
    assert list(configs(got)["fwd"]) == ["fma", 80, 90, 100] and configs(got)["fwd"][100] == {64: (9, 9, 9, 9)}
    assert got.replace("        100: {64: (9, 9, 9, 9)},\n", "") == SOURCE
    with pytest.raises(ValueError, match="CONFIGS has fwd, bwd, and no dq"):
        tune.with_row(SOURCE, "dq", 80, {})
    with pytest.raises(ValueError, match="the source has no CONFIGS"):
        tune.with_row("AFTER = 1\n", "fwd", 80, {})


def trial(config, us, *, now=False, problem=None):
    return Trial(config, now, us and us / 1e6, 0.0, problem)


def test_only_what_is_clearly_faster_is_written(tmp_path, monkeypatch, capsys):
    file = tmp_path / "kernel.py"
    monkeypatch.setattr(tune, "import_module", lambda name: type("module", (), {"__file__": str(file)}))
    monkeypatch.setattr(tune, "capability", lambda: 80)
    target = Target("softmax_attention", "fwd", 64)
    before = dict(target.configs)
    for found, written in (
        ([trial((1, 1, 1, 1), 100, now=True), trial((2, 2, 2, 2), 99)], False),
        ([trial((1, 1, 1, 1), 100, now=True)], False),
        (
            [trial((1, 1, 1, 1), None, now=True, problem="OutOfResources"), trial((3, 3, 3, 3), None, problem="wrong")],
            False,
        ),
        ([trial((1, 1, 1, 1), 100, now=True), trial((2, 2, 2, 2), 95), trial((3, 3, 3, 3), 60)], True),
        ([trial((1, 1, 1, 1), None, now=True, problem="OutOfResources"), trial((3, 3, 3, 3), 60)], True),
    ):
        file.write_text(SOURCE, encoding="utf-8")
        tune.write({target: found})
        target.configs.update(before)
        assert (configs(file.read_text(encoding="utf-8"))["fwd"][80][64] == (3, 3, 3, 3)) == written
        assert ("make compile-record" in capsys.readouterr().out) == written


def test_what_was_tried_is_shown_best_first_and_what_did_not_run_is_counted():
    found = [
        trial((1, 1, 1, 1), 100, now=True),
        trial((2, 2, 2, 2), 50),
        trial((4, 4, 4, 4), None, problem="OutOfResources"),
    ]
    text = tune.describe(Target("latent", "many", 512), found)
    assert text.index("2 2 2 2") < text.index("1 1 1 1") and "1 did not run: OutOfResources" in text
    assert "2.00 times as fast by (2, 2, 2, 2)" in text


def test_every_kernel_that_has_a_table_is_swept():
    kernels = {
        room: import_module(f"attncourse.{room}.kernel") for room in ROOMS if (PACKAGE / room / "kernel.py").exists()
    }
    assert set(tune.ROOMS) == {room for room, kernel in kernels.items() if hasattr(kernel, "CONFIGS")}
    for room in PREFILL:
        tables = {target.which for target in prefill_targets(room)}
        assert tables == ({""} if "fma" in kernels[room].CONFIGS else set(kernels[room].CONFIGS))
        assert all(target.width in target.configs for target in prefill_targets(room))


@on_a_cpu
@pytest.mark.parametrize("room", [room for room in PREFILL if room != "softmax_attention"])
def test_every_room_s_kernels_are_compared_with_their_definitions(room):
    """Interpreted: what the call of each target computes is what its room defines, with the present tiles."""
    targets = [target for target in prefill_targets(room) if target.width == 64 and target.which != "bwd_dq"]
    firsts = {target: target.present for target in targets}
    for target, config, found in try_all(targets, "cpu", left=lambda: 600.0):
        if config == firsts[target]:
            assert found.now and found.problem is None and found.seconds > 0, found


@on_a_cpu
def test_the_command_runs_without_a_gpu_and_writes_nothing(capsys):
    assert main(["tune", "--room", "grouped_query", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "grouped_query width 128: 2 tried" in said and "nothing of a GPU" in said
    for arguments, words in (
        (["--write", "--device", "cpu"], "--write needs a GPU"),
        (["--minutes", "0"], "--minutes must be positive, got 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["tune", *arguments])
        assert stop.value.code == 2 and words in capsys.readouterr().err
