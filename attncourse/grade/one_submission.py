"""One submission's way from bytes to record: what a local process or a cluster's worker runs."""

import hashlib
import importlib
import resource
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .judge import Mark, mark
from .read.identity import identify
from .read.submission import Release, Submission, read_submission
from .records import NOT_GRADED, record_of
from .wall.sandbox import Limits, Sandbox, find_sandbox
from .wall.worker import address_space

HEADROOM_BYTES = 8 << 30


@dataclass(frozen=True)
class Settings:
    """Settings are what every submission of a run is marked by.
    All of it can be sent to another machine.

    Args:
        release: what was handed out.
        checks: module that registers the checks when it is imported.
        private: folders that learners' code may not see, wherever they lie.
        unconfined: without a sandbox.
        limits: what one submission may use.
    """

    release: Release
    checks: str
    private: tuple[Path, ...] = ()
    unconfined: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def confinement(self) -> str:
        """Return how a record says that learners' code was confined."""
        return Sandbox(None if self.unconfined else "bwrap", limits=self.limits).description

    def sandbox(self) -> Sandbox:
        """Return the sandbox of this machine, tried once in each process."""
        return _sandbox(self.private, self.unconfined, self.limits)


@cache
def _sandbox(private: tuple[Path, ...], unconfined: bool, limits: Limits) -> Sandbox:
    return find_sandbox(private=private, unconfined=unconfined, limits=limits)


def content_of(data: bytes) -> str:
    """Return the digest by which a record knows the bytes that it is about."""
    return hashlib.sha256(data).hexdigest()


def grade_bytes(file: str, data: bytes, unreadable: str, settings: Settings) -> dict[str, Any]:
    """Return the record of one submission; of one for which no worker starts, a record that says so and no more.

    Args:
        file: where it lay in what was handed in.
        data: the notebook.
        unreadable: why there is no notebook, where `data` is empty.
    """
    _prepare_process(settings.checks)
    sandbox = settings.sandbox()
    identity, content = identify(file, settings.release.checks), content_of(data)
    submission = Submission(unreadable=unreadable) if unreadable else read_submission(data, settings.release)
    try:
        result = mark(submission, settings.release, sandbox)
    except Exception as error:
        # the grader's own trouble: this one is marked by the next run, the others go on
        result = Mark(NOT_GRADED, notes=[f"{type(error).__name__}: {error}"])
    return record_of(file, content, identity, submission.unit, result, settings.confinement)


@cache
def _prepare_process(checks: str) -> None:
    """Prepare each process that marks, once:
    the checks, one thread, and a bound on what a judge may ask of this machine.

    A result that makes a judge ask for absurd memory fails there, instead of ending the process.
    """
    importlib.import_module(checks)
    torch.set_num_threads(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, address_space() + HEADROOM_BYTES) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
