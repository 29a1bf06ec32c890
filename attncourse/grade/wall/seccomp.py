"""A system-call filter that keeps a learner's code in one process, with no more of the kernel than it needs.

With a single process, its limits on memory and processor time are limits on everything that the submission does, where
the kernel holds nothing for it besides: what it may call is listed in `syscalls`. Threads stay possible. The program is
classic BPF, as seccomp(2) wants it, so that no compiler library is needed.
"""

import errno
import platform
import socket
import struct
from collections.abc import Iterable, Iterator

from .syscalls import ALLOWED, BY_ARGUMENT, NEWEST

ALLOW, KILL_PROCESS, FAIL_WITH = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, KEEP_BITS, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
X32_NUMBERS = 0x40000000

# each machine's name in the kernel's audit numbers
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

CLONE_THREAD = 0x00010000
SOCKET_TYPE = 0xF
# copies of descriptors, their flags, a pipe's size; no locks, leases or larger pipes, for which the kernel takes memory
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)
# names of the process, of threads and of memory, and questions: a process that could make itself unreadable could not
# be measured
PRCTL_OPTIONS = (3, 15, 16, 21, 23, 39, 42, 0x53564D41)


def one_process_filter(machine: str | None = None) -> bytes:
    """Return the filter for this machine's processor, as bwrap's --seccomp reads it.

    Raises:
        ValueError: no system-call numbers are known for this processor.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT:
        raise ValueError(f"the sandbox knows the system calls of {', '.join(AUDIT)}, this machine is {machine}")
    number = BY_ARGUMENT[machine]
    program = [
        _step(LOAD, ARCHITECTURE_AT),
        _step(JUMP_EQUAL, AUDIT[machine], 1, 0),
        _step(RETURN, KILL_PROCESS),
        _step(LOAD, NUMBER_AT),
        *_fail(JUMP_AT_LEAST, X32_NUMBERS, errno.EPERM),
        *_fail(JUMP_AT_LEAST, NEWEST + 1, errno.ENOSYS),
        # clone3 hides its flags behind a pointer; told that it does not exist, the C library falls back to clone
        *_fail(JUMP_EQUAL, number["clone3"], errno.ENOSYS),
        *_when(number["clone"], [_step(LOAD, ARGUMENTS_AT), _step(JUMP_BITS, CLONE_THREAD, 1, 0), _refuse()]),
        # streams alone, and of the size that the kernel gives: what waits in a datagram socket may outlive its sender
        *_when(number["socketpair"], [*_one_of(0, (socket.AF_UNIX,)), *_one_of(1, (socket.SOCK_STREAM,), SOCKET_TYPE)]),
        *_when(number["fcntl"], _one_of(1, FCNTL_COMMANDS)),
        *_when(number["prctl"], _one_of(0, PRCTL_OPTIONS)),
    ]
    for first, last in _ranges(ALLOWED[machine]):
        # in ascending order: below this range, and not in the last one, is between them
        program += [_step(JUMP_AT_LEAST, last + 1, 3, 0), _step(JUMP_AT_LEAST, first, 0, 1)]
        program += [_step(RETURN, ALLOW), _refuse()]
    return b"".join([*program, _refuse()])


def refused_numbers(machine: str | None = None) -> set[int]:
    """Return numbers of the calls that fail whatever their arguments, and of some that no kernel has yet.

    Without those between the older numbers and the common ones, which are the kernel's own: no filter sees uretprobe.
    """
    machine = machine or platform.machine()
    numbers = {*range(NEWEST + 100)} - {*range(335, 424)}
    return numbers - ALLOWED[machine] - {*BY_ARGUMENT[machine].values()}


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of neighbours, (first, last), in ascending order."""
    numbers = set(numbers)
    for first in sorted(n for n in numbers if n - 1 not in numbers):
        last = first
        while last + 1 in numbers:
            last += 1
        yield first, last


def _when(number: int, tests: list[bytes]) -> list[bytes]:
    """Let `tests` refuse what they refuse of this call, and allow what is left."""
    return [_step(JUMP_EQUAL, number, 0, len(tests) + 1), *tests, _step(RETURN, ALLOW)]


def _one_of(argument: int, values: tuple[int, ...], bits: int = 0xFFFFFFFF) -> list[bytes]:
    """Refuse unless these bits of the argument are one of the values; an int's upper half the kernel does not read."""
    load = [_step(LOAD, ARGUMENTS_AT + 8 * argument), _step(KEEP_BITS, bits)]
    return load + [_step(JUMP_EQUAL, v, len(values) - i, 0) for i, v in enumerate(values)] + [_refuse()]


def _fail(comparison: int, number: int, error: int) -> list[bytes]:
    return [_step(comparison, number, 0, 1), _step(RETURN, FAIL_WITH | error)]


def _refuse() -> bytes:
    return _step(RETURN, FAIL_WITH | errno.EPERM)


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
