"""A control group for each sandboxed process, where one can be had: a limit on all memory that the kernel counts.

The worker's own limit is on its address space. Memory that is nobody's address space (files in memory, what waits in
pipes) only the kernel's count sees. Without a group the system-call filter and the scratch folder's size have to do.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_numbers = itertools.count()


@dataclass(frozen=True)
class Group:
    """A group is one control group, of version 2 or 1 of the kernel's interface."""

    path: Path

    def join(self) -> None:
        """Move the calling process in, before it becomes the sandbox."""
        (self.path / "cgroup.procs").write_text("0", encoding="utf-8")

    def ran_out(self) -> bool:
        """Return whether the kernel ended a process of the group for the memory that it took."""
        for name in ("memory.events", "memory.oom_control"):
            if (self.path / name).exists():
                counts = dict(line.split() for line in (self.path / name).read_text(encoding="utf-8").splitlines())
                return int(counts.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> None:
        """Let go of it; the kernel takes a moment to see that its last process is gone."""
        for _ in range(50):
            with contextlib.suppress(OSError):
                return self.path.rmdir()
            time.sleep(0.01)


def new_group(memory_bytes: int) -> Group | None:
    """Return a group of its own for one process; none where this process may not make one."""
    remove_leftovers()
    for parent, limits in _parents():
        group = Group(parent / f"attncourse-{os.getpid()}-{next(_numbers)}")
        try:
            group.path.mkdir()
        except OSError:
            continue
        try:
            for name, value in limits.items():
                (group.path / name).write_text(value.format(memory_bytes), encoding="utf-8")
            return group
        except OSError:
            group.remove()
    return None


@cache
def remove_leftovers() -> None:
    """Remove, once in a process, the groups of graders that were killed.
    A group that holds a process stays.
    """
    for parent, _ in _parents():
        for path, pid in _groups(parent):
            if not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    path.rmdir()


def _groups(parent: Path) -> Iterator[tuple[Path, int]]:
    """Yield the groups that graders made there, each with the number of its grader's process."""
    for path in parent.glob("attncourse-*-*"):
        _, pid, number = path.name.split("-", 2)
        if pid.isdigit() and number.isdigit():
            yield path, int(pid)


def _parents() -> list[tuple[Path, dict[str, str]]]:
    """Return where a group may be made, and what is to be written into which of its files."""
    found = []
    for line in (
        Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines() if Path("/proc/self/cgroup").exists() else []
    ):
        _, controllers, own = line.split(":", 2)
        if not controllers and (ROOT / "cgroup.controllers").exists():
            # version 2: a group that holds processes may not also limit groups below it, so make a neighbour
            parent = (ROOT / own.lstrip("/")).parent if own != "/" else ROOT
            found.append((parent, {"memory.max": "{}", "memory.swap.max": "0"}))
        elif "memory" in controllers.split(","):
            found.append((ROOT / "memory" / own.lstrip("/"), {"memory.limit_in_bytes": "{}"}))
    return found
