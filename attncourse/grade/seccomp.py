"""A system-call filter that keeps a learner's code in one process: no children, and none of the kernel's riskier doors.

With a single process, its limits on memory and processor time are limits on everything that the submission does; so
memory that belongs to no process (memfd_create, shmget) is refused too. Threads stay possible. The program is classic
BPF, as seccomp(2) wants it, so that no compiler library is needed.
"""

import errno
import platform
import struct

ALLOW, KILL_PROCESS, FAIL_WITH = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
CLONE_THREAD = 0x00010000
X32_NUMBERS = 0x40000000

# machine: (its name in the kernel's audit numbers, clone, clone3, the calls that fail)
MACHINES = {
    "x86_64": (
        0xC000003E,
        56,
        435,
        {
            "shmget": 29,
            "fork": 57,
            "vfork": 58,
            "ptrace": 101,
            "mount": 165,
            "umount2": 166,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "unshare": 272,
            "perf_event_open": 298,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "bpf": 321,
            "memfd_create": 319,
            "userfaultfd": 323,
            "io_uring_setup": 425,
        },
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        {
            "umount2": 39,
            "mount": 40,
            "unshare": 97,
            "ptrace": 117,
            "shmget": 194,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "perf_event_open": 241,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
            "io_uring_setup": 425,
        },
    ),
}


def one_process_filter(machine: str | None = None) -> bytes:
    """The filter for this machine's processor, as bwrap's --seccomp reads it.

    Raises:
        ValueError: no system-call numbers are known for this processor.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise ValueError(f"the sandbox knows the system calls of {', '.join(MACHINES)}, this machine is {machine}")
    audit_name, clone, clone3, refused = MACHINES[machine]
    program = [
        _step(LOAD, ARCHITECTURE_AT),
        _step(JUMP_EQUAL, audit_name, 1, 0),
        _step(RETURN, KILL_PROCESS),
        _step(LOAD, NUMBER_AT),
        *_fail(JUMP_AT_LEAST, X32_NUMBERS, errno.EPERM),
        # clone3 hides its flags behind a pointer; told that it does not exist, the C library falls back to clone
        *_fail(JUMP_EQUAL, clone3, errno.ENOSYS),
    ]
    for number in refused.values():
        program += _fail(JUMP_EQUAL, number, errno.EPERM)
    program += [
        _step(JUMP_EQUAL, clone, 0, 3),
        _step(LOAD, FIRST_ARGUMENT_AT),
        _step(JUMP_BITS, CLONE_THREAD, 1, 0),
        _step(RETURN, FAIL_WITH | errno.EPERM),
        _step(RETURN, ALLOW),
    ]
    return b"".join(program)


def _fail(comparison: int, number: int, error: int) -> list[bytes]:
    return [_step(comparison, number, 0, 1), _step(RETURN, FAIL_WITH | error)]


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
