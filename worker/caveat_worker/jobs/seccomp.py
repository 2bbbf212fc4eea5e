"""The system calls that a job never needs, and the filter that refuses them: see seccomp(2).

The table refuses what would leave the job: new processes, sockets, namespaces, io_uring, System V objects, signals to
others, changes of files' owners and modes, and the doors of the kernel that only administrators use. Everything else is
allowed, so a new release of a numerical library does not break.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass

ABSENT = -1
"""Number of a system call that an architecture does not have."""

PR_SET_PDEATHSIG, CLONE_THREAD = 1, 0x10000
F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP, TIOCSTI = 8, 10, 15, 0x8901, 0x8902, 0x5412
F_SETLEASE = 1024
"""A lease on a file makes whoever opens it next wait for 45 seconds, also the worker."""

SET_MODE_FILTER, SPEC_ALLOW = 1, 4
RETURN_ALLOW, RETURN_ERRNO, RETURN_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # see linux/filter.h
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Architecture:
    """A kind of processor: its number for the kernel, its column of the table, its number of seccomp(2)."""

    audit: int
    column: int
    seccomp: int


ARCHITECTURES = {"x86_64": Architecture(0xC000003E, 0, 317), "aarch64": Architecture(0xC00000B7, 1, 277)}
X32 = 0x40000000
"""Numbers from here on are calls of x32, a second table on x86-64."""


@dataclass(frozen=True)
class Only:
    """The argument that decides: a call is refused for some values, without some bits, or unless it is one of some."""

    argument: int
    values: tuple[int, ...] = ()
    lacks: int = 0
    unless: Callable[[], tuple[int, ...]] | None = None


def ourselves() -> tuple[int, ...]:
    """How a process names itself: by 0 or by its id."""
    return (0, os.getpid())


def own_id() -> tuple[int, ...]:
    """How a process names itself in a signal: 0 is its whole group there."""
    return (os.getpid(),)


Row = tuple[str, int, int, Only | None]
"""Name, number on x86-64, number on ARM64, and when it is refused; None is always."""

REFUSED: tuple[Row, ...] = (
    # Processes. clone3 keeps its flags in memory, where a filter cannot look, so libraries fall back to clone.
    ("fork", 57, ABSENT, None), ("vfork", 58, ABSENT, None), ("clone3", 435, 435, None),
    ("clone", 56, 220, Only(0, lacks=CLONE_THREAD)),
    ("execve", 59, 221, None), ("execveat", 322, 281, None),
    ("setpgid", 109, 154, None), ("setsid", 112, 157, None), ("prctl", 157, 167, Only(0, values=(PR_SET_PDEATHSIG,))),
    # Namespaces and file systems.
    ("unshare", 272, 97, None), ("setns", 308, 268, None),
    ("mount", 165, 40, None), ("umount2", 166, 39, None), ("pivot_root", 155, 41, None), ("chroot", 161, 51, None),
    ("open_tree", 428, 428, None), ("move_mount", 429, 429, None), ("fsopen", 430, 430, None),
    ("fsconfig", 431, 431, None), ("fsmount", 432, 432, None), ("fspick", 433, 433, None),
    ("mount_setattr", 442, 442, None), ("open_tree_attr", 467, 467, None),
    # Sockets, of the network and of Unix; also sending, since a socket of a pair can send to any address.
    ("socket", 41, 198, None), ("connect", 42, 203, None), ("bind", 49, 200, None), ("listen", 50, 201, None),
    ("accept", 43, 202, None), ("accept4", 288, 242, None), ("sendto", 44, 206, None),
    ("sendmsg", 46, 211, None), ("sendmmsg", 307, 269, None),
    # A second way to most of the calls in this table.
    ("io_uring_setup", 425, 425, None), ("io_uring_enter", 426, 426, None), ("io_uring_register", 427, 427, None),
    # Objects that outlive the job and belong to the user.
    ("shmget", 29, 194, None), ("shmat", 30, 196, None), ("shmctl", 31, 195, None), ("shmdt", 67, 197, None),
    ("semget", 64, 190, None), ("semop", 65, 193, None), ("semctl", 66, 191, None), ("semtimedop", 220, 192, None),
    ("msgget", 68, 186, None), ("msgsnd", 69, 189, None), ("msgrcv", 70, 188, None), ("msgctl", 71, 187, None),
    ("mq_open", 240, 180, None), ("mq_unlink", 241, 181, None),
    ("add_key", 248, 217, None), ("request_key", 249, 218, None), ("keyctl", 250, 219, None),
    # Other processes of the same user: their signals, memory, limits and turns.
    ("kill", 62, 129, Only(0, unless=own_id)), ("tgkill", 234, 131, Only(0, unless=own_id)), ("tkill", 200, 130, None),
    ("rt_sigqueueinfo", 129, 138, None), ("rt_tgsigqueueinfo", 297, 240, None), ("pidfd_open", 434, 434, None),
    ("pidfd_send_signal", 424, 424, None), ("pidfd_getfd", 438, 438, None),
    ("fcntl", 72, 25, Only(1, values=(F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE))),
    ("ioctl", 16, 29, Only(1, values=(FIOSETOWN, SIOCSPGRP, TIOCSTI))),
    ("ptrace", 101, 117, None), ("process_vm_readv", 310, 270, None), ("process_vm_writev", 311, 271, None),
    ("process_madvise", 440, 440, None), ("process_mrelease", 448, 448, None), ("kcmp", 312, 272, None),
    ("prlimit64", 302, 261, Only(0, unless=ourselves)), ("setpriority", 141, 140, None), ("ioprio_set", 251, 30, None),
    ("sched_setaffinity", 203, 122, Only(0, unless=ourselves)), ("sched_setattr", 314, 274, Only(0, unless=ourselves)),
    ("sched_setparam", 142, 118, Only(0, unless=ourselves)),
    ("sched_setscheduler", 144, 119, Only(0, unless=ourselves)),
    # Owners, modes, times and attributes of files, which Landlock does not protect.
    ("chmod", 90, ABSENT, None), ("fchmod", 91, 52, None), ("fchmodat", 268, 53, None), ("fchmodat2", 452, 452, None),
    ("chown", 92, ABSENT, None), ("lchown", 94, ABSENT, None), ("fchown", 93, 55, None), ("fchownat", 260, 54, None),
    ("utime", 132, ABSENT, None), ("utimes", 235, ABSENT, None), ("futimesat", 261, ABSENT, None),
    ("utimensat", 280, 88, None),
    ("setxattr", 188, 5, None), ("lsetxattr", 189, 6, None), ("fsetxattr", 190, 7, None),
    ("removexattr", 197, 14, None), ("lremovexattr", 198, 15, None), ("fremovexattr", 199, 16, None),
    ("setxattrat", 463, 463, None), ("removexattrat", 466, 466, None), ("file_setattr", 469, 469, None),
    # What only administrators need.
    ("bpf", 321, 280, None), ("perf_event_open", 298, 241, None), ("userfaultfd", 323, 282, None),
    ("fanotify_init", 300, 262, None), ("name_to_handle_at", 303, 264, None), ("open_by_handle_at", 304, 265, None),
    ("kexec_load", 246, 104, None), ("kexec_file_load", 320, 294, None), ("init_module", 175, 105, None),
    ("finit_module", 313, 273, None), ("delete_module", 176, 106, None), ("syslog", 103, 116, None),
    ("acct", 163, 89, None), ("swapon", 167, 224, None), ("swapoff", 168, 225, None), ("reboot", 169, 142, None),
    ("quotactl", 179, 60, None), ("settimeofday", 164, 170, None), ("clock_settime", 227, 112, None),
    ("adjtimex", 159, 171, None), ("clock_adjtime", 305, 266, None), ("personality", 135, 92, None),
    ("modify_ldt", 154, ABSENT, None), ("iopl", 172, ABSENT, None), ("ioperm", 173, ABSENT, None),
)  # fmt: skip
ANSWERED_AS_ABSENT = frozenset({"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"})
"""Calls without which libraries work, if the kernel says that it does not know them."""


class Program(ctypes.Structure):
    """A filter as the kernel takes it: its number of instructions, and where they are."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse() -> bool:
    """Refuses the calls of the table to this thread and all it starts; returns False if the kernel cannot.

    It needs `no_new_privs`. Kernels before 5.16 tie mitigations of speculation to a filter, which slow numerical code
    down; they are declined.
    """
    machine = ARCHITECTURES.get(platform.machine())
    if machine is None:
        return False
    instructions = program(machine)
    loaded = Program(len(instructions) // 8, instructions)
    return bool(_libc.syscall(machine.seccomp, SET_MODE_FILTER, SPEC_ALLOW, ctypes.byref(loaded)) == 0)


def program(machine: Architecture) -> bytes:
    """The filter as classic BPF, eight bytes an instruction, for this process."""
    own = step(LOAD, ARCHITECTURE_AT) + step(JUMP_EQUAL, machine.audit, yes=1) + step(RETURN, RETURN_KILL_PROCESS)
    steps = [own, step(LOAD, NUMBER_AT)]
    if machine.column == 0:
        steps.append(step(JUMP_AT_LEAST, X32, no=1) + step(RETURN, RETURN_ERRNO | errno.ENOSYS))
    numbered = [(name, (x86_64, arm64)[machine.column], only) for name, x86_64, arm64, only in REFUSED]
    steps += [_refusal(*row) for row in numbered if row[1] != ABSENT]
    return b"".join([*steps, step(RETURN, RETURN_ALLOW)])


def _refusal(name: str, number: int, only: Only | None) -> bytes:
    """The steps that refuse one call; they are entered and left with the call's number loaded."""
    refused = step(RETURN, RETURN_ERRNO | (errno.ENOSYS if name in ANSWERED_AS_ABSENT else errno.EPERM))
    inner = refused if only is None else _condition(only, refused)
    return step(JUMP_EQUAL, number, no=len(inner) // 8) + inner


def _condition(only: Only, refused: bytes) -> bytes:
    """Loads the lower half of an argument, all that the kernel reads of it here; refuses the call or allows it."""
    loaded, allowed = step(LOAD, ARGUMENTS_AT + 8 * only.argument), step(RETURN, RETURN_ALLOW)
    if only.unless is not None:
        values = only.unless()
        tests = [step(JUMP_EQUAL, value, yes=len(values) - place) for place, value in enumerate(values)]
        return b"".join([loaded, *tests, refused, allowed])
    tests = [step(JUMP_EQUAL, value, no=1) + refused for value in only.values]
    tests += [step(JUMP_SET, only.lacks, yes=1) + refused] if only.lacks else []
    return b"".join([loaded, *tests, allowed])


def step(code: int, operand: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; a jump skips `yes` or `no` of those that follow."""
    return struct.pack("=HBBI", code, yes, no, operand)
