"""Several ranks of one run as forked processes of the test, so that nothing is imported again.

After a backward pass in another thread torch refuses one in a forked process, so tests/conftest.py lets the tests that
import this module run first.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401 (what each rank would import again)
import torch
import torch._dynamo
import torchvision  # noqa: F401

import narfx.verbs.compare
import narfx.verbs.train  # noqa: F401
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.support.joining import joined
from narfx.support.ranks import Ranks

__all__ = ["Said", "command_of_ranks", "free_port", "in_ranks"]

_SECONDS = 120
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Said:
    """How one rank of a command ended: the exit code (negative: by which signal), and its two streams."""

    code: int | None
    out: str
    err: str


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def in_ranks(size: int, work: Callable[[Ranks], Any], device: str = "cpu") -> list[Any]:
    """What ``work`` returns on each of so many ranks that have joined; an exception where it raised one."""

    def joined_work(rank: int) -> Any:
        with joined(device) as ranks:
            return work(ranks)

    return [value for value, _ in _fork(size, joined_work, {})]


def command_of_ranks(
    size: int,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    own: Callable[[int], Sequence[str]] = lambda rank: (),
) -> list[Said]:
    """The command ``narfx`` on so many ranks in a folder, with arguments that each rank has for itself at the end."""

    def command(rank: int) -> int:
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        code = run_app(app, [*arguments, *own(rank)])
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return code

    ended = _fork(size, command, environment or {})
    texts = [[(folder / f"{name}.{rank}").read_text() for name in ("out", "err")] for rank in range(size)]
    for rank in range(size):
        for name in ("out", "err"):
            (folder / f"{name}.{rank}").unlink()
    return [
        Said(value if isinstance(value, int) else code, *text)
        for (value, code), text in zip(ended, texts, strict=True)
    ]  # fmt: skip


def _fork(size: int, work: Callable[[int], Any], environment: Mapping[str, str]) -> list[tuple[Any, int | None]]:
    """What ``work`` returned or raised in each process, and the exit code of the process."""
    port, pipes, processes = free_port(), [], []
    for rank in range(size):
        reader, writer = _FORK.Pipe(duplex=False)
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        own = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "localhost", **environment}
        process = _FORK.Process(target=_child, args=(work, rank, own, writer))
        process.start()
        writer.close()
        pipes.append(reader)
        processes.append(process)
    found = []
    for reader, process in zip(pipes, processes, strict=True):
        value = None
        try:
            if reader.poll(_SECONDS):
                value = reader.recv()
        except EOFError:
            pass  # it was killed
        process.join(_SECONDS)
        process.kill()
        found.append((value, process.exitcode))
    return found


def _child(work: Callable[[int], Any], rank: int, environment: Mapping[str, str], writer: Connection) -> None:
    torch.set_num_threads(1)  # a forked process has no threads of OpenMP's
    os.environ.update(environment)
    try:
        value = work(rank)
    except BaseException as error:
        value = error
    writer.send(value)
    writer.close()
    os._exit(0)
