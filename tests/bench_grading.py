"""How fast a class is graded, what the sandbox costs, and whether the grader's memory stays flat: `make bench-grading`.

Submissions of the toy unit (three checks in PyTorch), every fifth with a mistake, are marked by the command itself.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from attncourse.grade.wall.sandbox import find_sandbox
from attncourse.grade.wall.transport import Worker
from attncourse.profile import describe_device
from tests.toy_course import RIGHT, ROOT, hand_in, write_course

LEAST_A_MINUTE = 40
WRONG = RIGHT | {"rows": "def rows(scores):\n    return torch.softmax(scores, dim=0)"}


def seconds_to_start(unconfined: bool, rounds: int) -> float:
    """Return the median seconds until a worker stands ready, and is gone again."""
    sandbox, taken = find_sandbox(unconfined=unconfined), []
    for _ in range(rounds):
        began = time.perf_counter()
        Worker(sandbox).close()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def grade(course: Path, submissions: int, workers: int) -> tuple[float, dict[int, int]]:
    """Grade, and return the seconds of the whole command,
    and its own memory by the number of records that it had written.
    """
    for number in range(submissions):
        hand_in(course, course / "in" / f"learner-{number:05}.ipynb", **(WRONG if number % 5 == 0 else RIGHT))
    command = [sys.executable, "-m", "attncourse", "grade", course / "in", "--out", course / "out"]
    command += ["--exercises", course / "exercises", "--checks", "tests.toy_checks", "--workers", workers]
    began, memory = time.perf_counter(), {}
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with tqdm(total=submissions, unit="submission", file=sys.stdout) as progress:
        while process.poll() is None:
            done = len(list((course / "out" / "records").glob("*.json")))
            progress.update(done - progress.n)
            if done:
                memory[done] = resident_bytes(process.pid)
            time.sleep(1)
    if process.returncode != 0:
        raise SystemExit(f"the grader ended with {process.returncode}")
    return time.perf_counter() - began, memory


def main() -> int:
    """Print the figures; return 1 where the class was graded too slowly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(describe_device())
    confined, bare = seconds_to_start(False, 9), seconds_to_start(True, 9)
    print(
        f"a worker is ready after {confined:.2f} s, without the sandbox {bare:.2f} s: it costs {confined - bare:.2f} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory = grade(write_course(Path(folder)), args.submissions, args.workers)
    a_minute = 60 * args.submissions / seconds
    print(f"{args.submissions} submissions of three checks in {seconds:.0f} s: {a_minute:.0f} a minute")
    early = next(used for done, used in memory.items() if done >= min(20, args.submissions // 2))
    late = list(memory.values())[-1]
    print(f"the grader itself held {early / 1e6:.0f} MB early and {late / 1e6:.0f} MB at the end")
    return int(a_minute < LEAST_A_MINUTE)


if __name__ == "__main__":
    sys.exit(main())
