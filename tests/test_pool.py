"""Where marking runs: processes that die on the way, an executor that breaks, a Dask cluster that loses a worker."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from attncourse.grade.pool import Lost, Pool, cluster, local_processes
from tests.toy_course import RIGHT, ROOT, grade, hand_in

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def square(n: int) -> int:
    return n * n


def square_or_die(n: int, deadly: int) -> int:
    if n == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def die_once(n: int, marker: str) -> int:
    if n == 5 and not os.path.exists(marker):
        open(marker, "w", encoding="utf-8").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def test_every_call_gives_its_result_and_calls_are_drawn_as_needed():
    drawn = []

    def calls():
        for n in range(40):
            drawn.append(n)
            yield n, (n,)

    with local_processes(2) as pool:
        results = pool.map(square, calls())
        first = next(results)
        assert len(drawn) <= 8, "no more than a few submissions are held at a time"
        assert dict([first, *results]) == {n: n * n for n in range(40)}


def test_a_process_that_dies_once_loses_nothing(tmp_path):
    with local_processes(2) as pool:
        calls = [(n, (n, str(tmp_path / "died"))) for n in range(12)]
        assert dict(pool.map(die_once, calls)) == {n: n * n for n in range(12)}
    assert (tmp_path / "died").exists()


def test_a_call_that_kills_its_process_every_time_is_lost_alone():
    with local_processes(2) as pool:
        results = dict(pool.map(square_or_die, [(n, (n, 4)) for n in range(10)]))
    assert isinstance(results.pop(4), Lost)
    assert results == {n: n * n for n in range(10) if n != 4}


def test_an_error_of_the_function_itself_is_not_swallowed():
    with local_processes(1) as pool, pytest.raises(TypeError):
        list(pool.map(square, [(0, ("a",))]))


def test_processes_that_never_start_are_an_error_and_no_endless_loop():
    class Broken:
        def submit(self, *_):
            from concurrent.futures.process import BrokenProcessPool

            raise BrokenProcessPool

        def shutdown(self, **_):
            pass

    with pytest.raises(RuntimeError, match="die as soon as they start"):
        list(Pool(Broken, 1).map(square, [(0, (0,))]))


@pytest.mark.bad_input
def test_no_scheduler_is_an_error_that_says_where_none_answers():
    with (
        pytest.raises(ValueError, match="no Dask scheduler answers at 'tcp://127.0.0.1:1'"),
        cluster("tcp://127.0.0.1:1"),
    ):
        pass


@needs_sandbox
def test_a_cluster_that_loses_a_worker_marks_all_and_none_twice(course, tmp_path):
    distributed = pytest.importorskip("distributed")
    folder, out = tmp_path / "in", tmp_path / "out"
    # more than two a worker: that is what the worker that dies has in its hands when the first is marked
    for number in range(7):
        hand_in(course, folder / f"learner-{number}.ipynb", **RIGHT)
    options = {"n_workers": 3, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, host="127.0.0.1") as local, distributed.Client(local) as client:
        pids = list(client.run(os.getpid).values())
        killed = threading.Event()

        def kill_one():
            deadline = time.monotonic() + 120
            while not list((out / "records").glob("*.json")) and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(pids[0], signal.SIGKILL)
            killed.set()

        threading.Thread(target=kill_one, daemon=True).start()
        records = grade(course, folder, out, "--scheduler", local.scheduler_address)
        assert killed.is_set()
    assert len(records) == 7 and {r["points"] for r in records.values()} == {6}
    assert all(r["sandbox"].startswith("bubblewrap") for r in records.values())
    rows = [row["learner"] for row in csv.DictReader((out / "grades.csv").read_text(encoding="utf-8").splitlines())]
    assert sorted(rows) == sorted(records)
    again = grade(course, folder, out)
    assert again == records, "what a cluster marked counts for local processes too"


def test_help_needs_no_extras():
    hide = "import sys; sys.modules['distributed'] = sys.modules['jinja2'] = sys.modules['nbgrader'] = None\n"
    code = hide + "from attncourse.__main__ import main\nmain(['grade', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "examples:" in done.stdout, done.stderr
