"""Where a learner's code runs: bubblewrap's namespaces, a bare file system, no network, one process under limits.

Visible inside, and only to read: the system's libraries, the interpreter, the packages that exercises are written in,
and of this package the files that the released notebook imports. Not visible: everything else, such as the mechanisms,
other packages, solutions, tests, other submissions, records, the home folder, the environment.
"""

import contextlib
import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..imports import PACKAGE, files_needed
from .cgroup import Group, new_group
from .packages import offered_paths, package_folders
from .seccomp import one_process_filter

INSIDE = "/course"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")

ADVICE = (
    "install bubblewrap 0.8 or newer (Debian, Ubuntu: apt install bubblewrap; macOS and Windows: in a Linux virtual "
    "machine or WSL 2) and, where needed, allow it user namespaces; or pass --unconfined to run the learners' code with "
    "your own rights, which each record will say"
)

# What a worker holds beside what its own limit counts: the interpreter, PyTorch, its scratch folder.
BESIDE_ITS_LIMIT = 1 << 30

# What no learner's notebook is shown of the course, though what it is shown mentions it: answers, and drawings.
NEVER_SHOWN = ("attncourse.check.units", "attncourse.check.drawing")


@dataclass(frozen=True)
class Limits:
    """Limits are what one submission may use; seconds are wall-clock time but for `cpu_seconds`."""

    memory_bytes: int = 2 << 30
    cpu_seconds: int = 600
    scratch_bytes: int = 64 << 20
    start_seconds: float = 120.0
    cell_seconds: float = 30.0
    submission_seconds: float = 300.0


class SandboxMissing(ValueError):
    """There is no sandbox to be had here; the message says why and what would help."""


@dataclass(frozen=True)
class Sandbox:
    """A sandbox starts workers: confined by bubblewrap, or (`bwrap` None) with the grader's own rights."""

    bwrap: str | None
    private: tuple[Path, ...] = ()
    limits: Limits = Limits()

    @property
    def description(self) -> str:
        """Return what each record says of how the code was confined."""
        if self.bwrap is None:
            return "unconfined"
        limits = self.limits
        return (
            f"bubblewrap: own namespaces, no network, listed files and system calls, one process, {limits.memory_bytes >> 20} MiB "
            f"memory, {limits.scratch_bytes >> 20} MiB scratch, {limits.cpu_seconds} s of processor time"
        )

    def new_group(self) -> Group | None:
        """Return a control group for one worker, above its own limit, where one can be had."""
        return None if self.bwrap is None else new_group(self.limits.memory_bytes + BESIDE_ITS_LIMIT)

    def start(self, imports: tuple[str, ...] = (), group: Group | None = None) -> subprocess.Popen:
        """Start a worker whose pipes are its standard input and output; its standard error says why it could not start.

        Args:
            imports: modules of the course package that it is to find besides its own.
            group: control group that it is to be in.
        """
        code = "import sys; from attncourse.grade.wall.worker import main; main(*map(int, sys.argv[1:]))"
        limits = (str(self.limits.memory_bytes), str(self.limits.cpu_seconds))
        return self.run([sys.executable, "-s", "-P", "-c", code, *limits], imports, group)

    def run(self, command: list[str], imports: tuple[str, ...] = (), group: Group | None = None) -> subprocess.Popen:
        """Start a command inside, with pipes, in a process group of its own."""
        options = {"bufsize": 0, "start_new_session": True, "preexec_fn": group.join if group else None}
        options |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        if self.bwrap is None:
            return subprocess.Popen(command, env=environment(str(PACKAGE.parent)), cwd="/", **options)
        with _in_memory(one_process_filter()) as rules:
            wall = [self.bwrap, *namespaces(rules), *self._mounts(), *_course(imports)]
            command = [*wall, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--", *command]
            return subprocess.Popen(command, env=environment(INSIDE), pass_fds=(rules,), **options)

    def _mounts(self) -> list[str]:
        interpreter = {Path(p) for p in (sys.prefix, sys.base_prefix, Path(sys.executable).resolve().parents[1])}
        visible = {Path(path) for path in (*SYSTEM, *interpreter)} - {Path("/")}
        # first what is made here, since the interpreter's folder may lie in any of it
        arguments = ["--proc", "/proc", "--dev", "/dev", "--size", str(self.limits.scratch_bytes), "--tmpfs", "/tmp"]
        packages = package_folders(visible)
        private = {p.resolve() for p in (*self.private, PACKAGE, *packages) if p.is_dir()}
        mounts = mounts_in_order(visible | {*offered_paths()}, private)
        for path, hidden in mounts:
            arguments += ["--size", "4096", "--tmpfs", str(path)] if hidden else ["--ro-bind-try", str(path), str(path)]
        # what hides is a file system of its own, and would take files
        return arguments + [part for path, hidden in mounts if hidden for part in ("--remount-ro", str(path))]


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """Yield an open file that holds this, for bwrap to read."""
    file = os.memfd_create("attncourse")
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _course(imports: tuple[str, ...]) -> list[str]:
    """Return bwrap's arguments for what a worker needs of the course package, file by file, and nothing else."""
    arguments = ["--dir", f"{INSIDE}/attncourse/check/units"]
    for file in course_files(imports):
        arguments += ["--ro-bind", str(PACKAGE / file), f"{INSIDE}/attncourse/{file}"]
    return arguments


@functools.cache
def course_files(imports: tuple[str, ...]) -> tuple[str, ...]:
    """Return files of the course package that a worker sees whose notebook imports these modules."""
    return tuple(sorted(files_needed(("attncourse.grade.wall.worker", *imports), without=NEVER_SHOWN)))


def mounts_in_order(visible: set[Path], private: set[Path]) -> list[tuple[Path, bool]]:
    """Return parents before children: (path, whether it is hidden);
    a private folder that lies in nothing visible is left out.

    A folder of the interpreter within a private one (a `.venv` in a checkout) is shown again. A private folder is
    hidden wherever a visible one leads to it, through a link too.
    """
    real = {path: path.resolve() for path in visible}
    hidden = {p / q.relative_to(real[p]) for p in visible for q in private if real[p] in q.parents}
    return sorted([(p, False) for p in visible] + [(p, True) for p in hidden], key=lambda m: (len(m[0].parts), m[0]))


def namespaces(rules: int) -> list[str]:
    """Return bwrap's arguments that take everything away; `rules` is the open file of the system-call filter."""
    unprivileged = ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    tied = ["--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox", "--seccomp", str(rules)]
    return ["--unshare-all", *unprivileged, *tied]


def environment(package_root: str) -> dict[str, str]:
    """Return all that a worker's environment holds."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/tmp",
        "USER": "learner",
        "TMPDIR": "/tmp",
        "MPLBACKEND": "agg",
        "CUDA_VISIBLE_DEVICES": "",
        "TRITON_INTERPRET": "1",
        # large blocks go back to the system when freed, so that memory seen from outside is memory held
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": package_root,
        **threads,
    }


def find_sandbox(*, private: tuple[Path, ...] = (), unconfined: bool = False, limits: Limits | None = None) -> Sandbox:
    """Return a sandbox that has been tried and works.

    Args:
        private: folders that no learner's code may see even where they lie within the interpreter's or the system's.
        unconfined: do without.

    Raises:
        SandboxMissing: this is no Linux, or bubblewrap is not installed, too old, or not allowed to work here.
    """
    limits = limits or Limits()
    if unconfined:
        return Sandbox(None, limits=limits)
    if platform.system() != "Linux":
        raise SandboxMissing(f"learners' code can be confined on Linux alone, this is {platform.system()}: {ADVICE}")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxMissing(f"there is no bwrap on the PATH: {ADVICE}")
    sandbox = Sandbox(bwrap, private, limits)
    _, errors = (process := sandbox.run([sys.executable, "-c", ""])).communicate()
    if process.returncode != 0:
        raise SandboxMissing(f"the sandbox does not start ({errors.decode(errors='replace').strip()[-500:]}): {ADVICE}")
    return sandbox
