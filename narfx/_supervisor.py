"""A small parent process that outlives a crash of native code, so that the user gets a sentence and an exit code.

A segmentation fault in torch ends a process at once, and no handler in the process itself can be relied on. So
``narfx`` forks before it imports torch: the child does the work, the parent waits, passes signals on, and ends as the
child ends. Linux only, because only there the child can be told to die with its parent; elsewhere a crash is silent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from narfx.support.hidden import hidden_for, remove_hidden

__all__ = ["clean_up", "is_supervised", "supervise"]

_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGVTALRM")
_supervised = [False]


def supervise(passed_on: Iterable[signal.Signals], crashed: Callable[[int, signal.Signals], int]) -> None:
    """Go on in a child process; the parent never returns.

    Args:
        passed_on: The signals that the parent passes on to the child.
        crashed: Called in the parent with the number of the child and the signal of a crash; returns the exit code.
    """
    if sys.platform != "linux":
        return
    waited = {*passed_on, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    parent, child = os.getpid(), -1
    with contextlib.suppress(OSError):  # no process or no memory is left: then there is no parent
        child = os.fork()
    if child > 0:
        os._exit(_wait(child, waited, crashed))
    if child == 0:
        _supervised[0] = True
        _die_with(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_supervised() -> bool:
    """Whether this process has a parent that reports a crash."""
    return _supervised[0]


def _wait(child: int, waited: set[signal.Signals], crashed: Callable[[int, signal.Signals], int]) -> int:
    """Wait for the child, and return the exit code; signals that it did not get itself are passed on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ended, status = 0, 0
    while not ended:
        found = signal.sigwaitinfo(waited)
        if found.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
        elif found.si_code != _SI_KERNEL:  # a terminal sends Ctrl-C to both
            os.kill(child, found.si_signo)
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = signal.Signals(os.WTERMSIG(status))
    if number.name in _CRASHES:
        return crashed(child, number)
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent is killed."""
    import ctypes  # the parent does without it

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def clean_up(process: int, arguments: list[str]) -> str:
    """Remove the hidden folders of a process that crashed; says in words what is left of the command's ``--out``."""
    named = [text.removeprefix("--out=") for text in arguments if text.startswith("--out=")]
    named += [value for option, value in pairwise(arguments) if option == "--out"]
    if not named:
        return ""
    out = Path(named[-1])
    unfinished = hidden_for(out, process)
    for hidden in unfinished:
        remove_hidden(hidden)
    if not unfinished and (out / "checkpoint.pt").is_file():
        return f"; the run in {out} resumes with --resume --out {out}"
    return f"; nothing was written to {out}" if unfinished or not out.exists() else ""
