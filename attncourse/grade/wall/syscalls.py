"""Which system calls a learner's code may make: what Python, NumPy, PyTorch and Triton's interpreter need, and no more.

A list of what is allowed holds where a list of what is refused has gaps. Not in it: memory that belongs to no process
(shmget, semget, msgget, mq_open, memfd_create, memfd_secret, inotify_add_watch, setxattr), sockets but for a pair within
the process, keys, io_uring, other processes, mounts. The numbers are those of linux-libc-dev 6.1.
"""

# The newest number in those headers. Later ones do not exist as far as the process is told: libraries then do without,
# where one that is told that they are forbidden may give up.
NEWEST = 450

# name, number on x86-64, number on aarch64 ("-": it has no such call)
_TABLE = """
read 0 63, write 1 64, open 2 -, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, lseek 8 62, pread64 17 67,
pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, sendfile 40 71, flock 73 32, fsync 74 82, fdatasync 75 83,
truncate 76 45, ftruncate 77 46, getdents 78 -, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -, mkdir 83 -,
rmdir 84 -, creat 85 -, link 86 -, unlink 87 -, symlink 88 -, readlink 89 -, chmod 90 -, fchmod 91 52, chown 92 -,
fchown 93 55, lchown 94 -, umask 95 166, utime 132 -, statfs 137 43, fstatfs 138 44, sync 162 81,
readahead 187 213, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11, llistxattr 195 12,
flistxattr 196 13, getdents64 217 61, fadvise64 221 223, utimes 235 -, openat 257 56, mkdirat 258 34,
fchownat 260 54, futimesat 261 -, newfstatat 262 79, unlinkat 263 35, renameat 264 38, linkat 265 37,
symlinkat 266 36, readlinkat 267 78, fchmodat 268 53, faccessat 269 48, sync_file_range 277 84, utimensat 280 88,
fallocate 285 47, preadv 295 69, pwritev 296 70, syncfs 306 267, renameat2 316 276, copy_file_range 326 285,
preadv2 327 286, pwritev2 328 287, statx 332 291, close_range 436 436, openat2 437 437, faccessat2 439 439,
ioctl 16 29, dup 32 23, dup2 33 -, dup3 292 24,
poll 7 -, pipe 22 -, select 23 -, epoll_create 213 -, epoll_wait 232 -, epoll_ctl 233 21, pselect6 270 72,
ppoll 271 73, epoll_pwait 281 22, signalfd 282 -, timerfd_create 283 85, eventfd 284 -, timerfd_settime 286 86,
timerfd_gettime 287 87, signalfd4 289 74, eventfd2 290 19, epoll_create1 291 20, pipe2 293 59,
epoll_pwait2 441 441, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, shutdown 48 210,
getsockname 51 204, getpeername 52 205, getsockopt 55 209,
mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, msync 26 227, mincore 27 232,
madvise 28 233, get_mempolicy 239 236, pkey_mprotect 329 288, pkey_alloc 330 289, pkey_free 331 290,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sched_yield 24 124, pause 34 -, kill 62 129,
exit 60 93, wait4 61 260, waitid 247 95, rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
sigaltstack 131 132, arch_prctl 158 -, gettid 186 178, tkill 200 130, futex 202 98, sched_setaffinity 203 122,
sched_getaffinity 204 123, set_thread_area 205 -, get_thread_area 211 -, set_tid_address 218 96,
restart_syscall 219 128, exit_group 231 94, tgkill 234 131, set_robust_list 273 99, get_robust_list 274 100,
membarrier 324 283, rseq 334 293, futex_waitv 449 449, execve 59 221, getpriority 140 141, setpriority 141 140,
sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125, sched_get_priority_min 147 126,
sched_rr_get_interval 148 127, sched_getattr 315 275, getcpu 309 168,
nanosleep 35 101, getitimer 36 102, alarm 37 -, setitimer 38 103, gettimeofday 96 169, times 100 153, time 201 -,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
getpid 39 172, uname 63 160, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, getuid 102 174, getgid 104 176,
geteuid 107 175, getegid 108 177, setpgid 109 154, getppid 110 173, getpgrp 111 -, setsid 112 157,
getgroups 115 158, getresuid 118 148, getresgid 120 150, getpgid 121 155, getsid 124 156, capget 125 90,
setrlimit 160 164, prlimit64 302 261, getrandom 318 278,
"""

# Allowed with some arguments alone: see seccomp.
BY_ARGUMENT = {
    "x86_64": {"clone": 56, "clone3": 435, "socketpair": 53, "fcntl": 72, "prctl": 157},
    "aarch64": {"clone": 220, "clone3": 435, "socketpair": 199, "fcntl": 25, "prctl": 167},
}


def _numbers(column: int) -> frozenset[int]:
    entries = (entry.split() for entry in _TABLE.split(",") if entry.strip())
    return frozenset(int(entry[column]) for entry in entries if entry[column] != "-")


ALLOWED = {"x86_64": _numbers(1), "aarch64": _numbers(2)}
