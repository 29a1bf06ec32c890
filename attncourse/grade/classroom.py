"""All submissions of a folder: which need marking, some at a time, a record as soon as each is done."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .judge import Mark, mark
from .records import NOT_GRADED, read_record, record_of, record_path, still_valid, write_record, write_table
from .sandbox import Sandbox
from .submission import Release, Submission, read_submission


def grade_folder(
    folder: Path, paths: list[Path], out: Path, release: Release, sandbox: Sandbox, *, again: bool, jobs: int
) -> list[dict[str, Any]]:
    """Mark the notebooks at `paths` below `folder`; the records of all of them, in that order.

    What a record in `out` already says of an unchanged notebook is kept, unless asked `again`.
    """
    records: dict[Path, dict[str, Any]] = {}
    waiting = {}
    with _pool(jobs) as pool, tqdm(total=len(paths), unit="submission") as progress:
        for path in paths:
            submission = read_submission(path, folder, release)
            record = read_record(record_path(out, submission))
            if not again and still_valid(record, submission, sandbox):
                records[path] = record
                progress.update()
            else:
                waiting[pool.submit(grade_one, submission, release, sandbox)] = (path, submission)
        for done in as_completed(waiting):
            path, submission = waiting[done]
            records[path] = done.result()
            write_record(record_path(out, submission), records[path])
            progress.update()
    in_order = [records[path] for path in paths]
    write_table(out / "grades.csv", in_order)
    return in_order


def _pool(jobs: int) -> ThreadPoolExecutor:
    # the number of threads that PyTorch uses is kept by each thread for itself
    return ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,))


def grade_one(submission: Submission, release: Release, sandbox: Sandbox) -> dict[str, Any]:
    """The record of one submission; of one for which no worker starts, a record that says so and no more."""
    try:
        return record_of(submission, mark(submission, release, sandbox), sandbox)
    except RuntimeError as error:
        return record_of(submission, Mark(NOT_GRADED, notes=[str(error)]), sandbox)
