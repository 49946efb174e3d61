"""The group of processes that torchrun starts for one run: its beginning, its end, and what happens if a rank is lost.

``NARFX_RANK_TIMEOUT`` is how many seconds a rank waits for the others, at the start and later (1800). A rank that dies
is noticed sooner (:mod:`narfx.support.rank_watch`). ``NARFX_BACKEND`` is ``gloo`` or ``nccl``; by default NCCL where
all ranks compute on GPUs, else gloo.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from narfx.errors import LostRankError, NarfxError, RunError, UsageError
from narfx.support.collectives import LOST_CONTACT, gather, use_group
from narfx.support.devices import pick_device
from narfx.support.launched import rank_numbers
from narfx.support.rank_watch import GiveUp, Watch, connect
from narfx.support.ranks import Ranks
from narfx.support.text import first_line

__all__ = ["joined", "naming_the_lost", "ranks_of_environment"]

_SECONDS = 1800.0
_CAUSE_SECONDS = 3.0  # a killed process is seen at once; others need a moment to say why they end

_watch: list[Watch] = []
_left: list[Callable[[], str]] = []


def ranks_of_environment() -> Ranks:
    """This process among those that torchrun has started; rank 0 of 1 without torchrun.

    Raises:
        UsageError: The variables do not name a rank.
    """
    try:
        return Ranks(*rank_numbers(os.environ))
    except ValueError as error:
        raise UsageError(
            f"the variables RANK, WORLD_SIZE and LOCAL_RANK do not name a rank ({error}): start the ranks with "
            "torchrun, or unset them",
            where="RANK",
            kind="ranks",
        ) from error


@contextmanager
def joined(
    device: str = "auto",
    *,
    describe: Callable[[BaseException], NarfxError | None] = lambda error: _plain(error),
    give_up: GiveUp = lambda error: os._exit(error.exit_code),
) -> Iterator[Ranks]:
    """The ranks of this run, which talk to each other inside of the block; one process does without all this.

    Args:
        device: What the run computes on: ``auto``, ``cpu`` or ``cuda``; of the GPUs each rank takes that of its number
            on its machine.
        describe: From what ends the block to the error that rank 0 reports for this rank.
        give_up: Called in another thread when a rank is lost and this one does not end by itself; ends the process.

    Raises:
        UsageError: The variables name no rank, the backend is not there, or a rank has no such device.
        RunError: The ranks do not find each other.
        LostRankError: Another rank has ended.
    """
    ranks = ranks_of_environment()
    if ranks.alone:
        yield ranks
        return
    seconds, backend = _timeout(), _backend()
    watch = _start(ranks, seconds, lambda lost: give_up(_whole(lost)))
    _watch.append(watch)
    try:
        with naming_the_lost():
            _choose_devices(ranks, device, backend, seconds)
            yield ranks
    except BaseException as error:
        watch.close(describe(error))
        raise
    else:
        watch.close(None)
        from torch import distributed

        with suppress(RuntimeError):
            distributed.destroy_process_group()
    finally:
        _watch.clear()
        _left.clear()
        use_group(None)


@contextmanager
def naming_the_lost(left: Callable[[], str] | None = None) -> Iterator[None]:
    """An interrupt, or a rank that does not answer, becomes the error that names the rank which ended, and why.

    ``left`` gives the words on what is left of the run. They end the sentence also where the error arises later, on the
    way out of the block, or in the thread that ends a process which does not end itself.
    """
    if left is not None and _watch:
        _left.append(left)
    try:
        yield
        _left[:] = [other for other in _left if other is not left]
    except LostRankError:
        raise
    except (KeyboardInterrupt, RunError) as error:
        contact = isinstance(error, RunError)
        if not _watch or (isinstance(error, RunError) and error.kind != LOST_CONTACT):
            raise
        lost = _cause(_watch[0])
        if lost is None:
            raise
        if lost.kind == "interrupted":
            if contact:
                raise KeyboardInterrupt from error
            raise
        raise _whole(lost) from error


def _whole(lost: LostRankError) -> LostRankError:
    """The error with the words on what is left."""
    words = f"{lost}; {_left[-1]()}" if _left else str(lost)
    return LostRankError(words, code=lost.exit_code, kind=lost.kind, where=lost.where)


def _cause(watch: Watch) -> LostRankError | None:
    while True:
        try:
            lost = watch.lost(_CAUSE_SECONDS)
            if lost is not None and callable(signal.getsignal(signal.SIGTERM)):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, because of this; the command is ending
            return lost
        except KeyboardInterrupt:  # the same loss
            continue


def _start(ranks: Ranks, seconds: float, give_up: GiveUp) -> Watch:
    from torch import distributed

    try:
        distributed.init_process_group(
            "gloo", rank=ranks.rank, world_size=ranks.size, timeout=timedelta(seconds=seconds)
        )  # fmt: skip
        return connect(ranks, os.environ["MASTER_ADDR"], give_up, seconds)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise RunError(
            f"the {ranks.size} ranks did not find each other within {seconds:g} seconds ({first_line(error)[:200]}): "
            "start them with torchrun, and let the machines reach each other (docs/ranks.md)",
            kind="ranks_start",
        ) from error


def _timeout() -> float:
    text = os.environ.get("NARFX_RANK_TIMEOUT", str(_SECONDS))
    try:
        seconds = float(text)
        if not 0 < seconds < 1e7:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"the variable NARFX_RANK_TIMEOUT is {text!r}: it must be a number of seconds above 0",
            where="NARFX_RANK_TIMEOUT",
            kind="ranks",
        ) from None
    return seconds


def _backend() -> str | None:
    """The backend that the user names."""
    from torch import distributed

    named = os.environ.get("NARFX_BACKEND")
    there = [
        name
        for name in ("gloo", "nccl")
        if distributed.is_available() and getattr(distributed, f"is_{name}_available")()
    ]
    if "gloo" not in there or (named is not None and named not in there):
        raise UsageError(
            f"there is no backend {named or 'gloo'!r}: this torch has {' and '.join(there) or 'none'}; set "
            "NARFX_BACKEND to one of them, or unset it",
            where="NARFX_BACKEND",
            kind="no_backend",
        )
    return named


def _choose_devices(ranks: Ranks, device: str, backend: str | None, seconds: float) -> None:
    """Give each rank its device, and the tensors their way; all ranks raise the same error."""
    kind, refusal = "", None
    try:
        kind = _device(ranks, device, backend)
    except UsageError as error:
        refusal = str(error)
    kinds = gather(ranks, [kind, refusal])
    for rank, (_, told) in enumerate(kinds):
        if told is not None:
            raise UsageError(f"rank {rank} of {ranks.size}: {told}", where="--device", kind="no_device")
    if len({kind for kind, _ in kinds}) > 1:
        names = ", ".join(f"rank {rank} {kind}" for rank, (kind, _) in enumerate(kinds))
        raise UsageError(
            f"the ranks compute on different devices ({names[:200]}): name one with --device",
            where="--device",
            kind="no_device",
        )
    if kind == "cuda" and backend != "gloo":
        from torch import distributed

        use_group(distributed.new_group(backend="nccl", timeout=timedelta(seconds=seconds)))


def _device(ranks: Ranks, device: str, backend: str | None) -> str:
    """The kind of this rank's device, which becomes the current one."""
    import torch

    picked = pick_device(device)
    if picked.type != "cuda":
        if backend == "nccl":
            raise UsageError(
                f"the backend NCCL connects GPUs, and this rank computes on {picked.type}: set NARFX_BACKEND=gloo, "
                "or unset it"
            )
        return picked.type
    if picked.index is not None:
        raise UsageError(f"each rank takes the GPU of its number: give --device cuda, not {device}")
    there = torch.cuda.device_count()
    if backend == "gloo":  # two ranks may share a GPU
        torch.cuda.set_device(ranks.local % there)
    elif ranks.local < there and _has_nccl():
        torch.cuda.set_device(ranks.local)
    else:
        raise UsageError(
            f"its machine has {there} GPUs with NCCL, and it is number {ranks.local} there: start fewer ranks on a "
            "machine, set NARFX_BACKEND=gloo, or give --device cpu"
        )
    return "cuda"


def _has_nccl() -> bool:
    """Whether this torch has NCCL."""
    from torch import distributed

    return bool(distributed.is_nccl_available())


def _plain(error: BaseException) -> NarfxError:
    if isinstance(error, NarfxError):
        return error
    kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "internal"
    return RunError(f"{type(error).__name__}: {first_line(error)}", kind=kind)
