"""Simulates a kernel that lacks a system call: it answers ENOSYS, to this process and all that it starts."""

from __future__ import annotations

import ctypes
import errno

from caveat_worker.jobs.seccomp import JUMP_EQUAL, LOAD, NUMBER_AT, RETURN, RETURN_ALLOW, RETURN_ERRNO, Program, step

LANDLOCK, SECCOMP = 444, 317
"""Numbers on x86-64 of landlock_create_ruleset(2) and seccomp(2)."""
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


def forget(number: int) -> None:
    """Forgets a system call, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = step(LOAD, NUMBER_AT) + step(JUMP_EQUAL, number, no=1)
    steps += step(RETURN, RETURN_ERRNO | errno.ENOSYS) + step(RETURN, RETURN_ALLOW)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(Program(len(steps) // 8, steps)), 0, 0) == 0
