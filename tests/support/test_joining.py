"""The group of ranks: what it refuses, and how soon it notices that a rank has ended, and why."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_processes import free_port, in_ranks

from narfx.errors import LostRankError, NarfxError, RunError, UsageError
from narfx.support.collectives import gather
from narfx.support.joining import joined, naming_the_lost, ranks_of_environment
from narfx.support.rank_watch import Watch
from narfx.support.ranks import Ranks

rank_processes_first = True


def killed(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def refused(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise UsageError("there is no such file", where="here", kind="no_file")


@pytest.mark.parametrize(
    ("end", "kind", "code", "said"),
    [
        (killed, "rank_killed", 7, "rank 1 of 3 ended without a word"),
        (refused, "no_file", 2, "rank 1 of 3: there is no such file"),
    ],
)
@pytest.mark.parametrize("computing", [False, True], ids=["in a collective call", "while it computes"])
def test_the_others_end_at_once_and_rank_0_knows_why(
    end: Callable[[Ranks], None], kind: str, code: int, said: str, computing: bool
) -> None:
    def work(ranks: Ranks) -> None:
        gather(ranks, 0)
        end(ranks)
        if computing:
            for _ in range(600):
                time.sleep(0.1)
        while True:
            gather(ranks, 0)

    began = time.monotonic()
    first, second, third = in_ranks(3, work)
    assert time.monotonic() - began < 30
    assert isinstance(first, LostRankError)
    assert (first.kind, first.exit_code) == (kind, code)
    assert str(first).startswith(said)
    assert second is None or isinstance(second, UsageError)
    assert isinstance(third, LostRankError)


def test_a_rank_that_does_not_answer_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARFX_RANK_TIMEOUT", "1.5")

    def work(ranks: Ranks) -> None:
        gather(ranks, 0)
        if ranks.first:
            gather(ranks, 0)
        else:
            time.sleep(4)

    began = time.monotonic()
    first, _ = in_ranks(2, work)
    assert isinstance(first, RunError)
    assert "another rank does not answer" in str(first)
    assert "NARFX_RANK_TIMEOUT" in str(first)
    assert time.monotonic() - began < 30


def test_a_watch_interrupts_and_gives_up_after_its_grace() -> None:
    (ours, theirs), given_up = socket.socketpair(), list[LostRankError]()
    watch = Watch(2, {1: ours}, given_up.append, grace=0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            theirs.close()
            time.sleep(30)
        time.sleep(1)  # the main thread computes on
        assert [error.kind for error in given_up] == ["rank_killed"]
    finally:
        watch.close(None)
        theirs.close()


def test_the_cause_is_told_and_not_what_follows_from_it() -> None:
    links = {rank: socket.socketpair() for rank in (1, 2)}
    watch = Watch(3, {rank: ours for rank, (ours, _) in links.items()}, lambda error: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            links[1][1].sendall(b'{"code": 7, "kind": "rank_lost", "message": "rank 2 does not answer"}')
            links[1][1].close()
            time.sleep(30)
        links[2][1].sendall(b'{"code": 7, "kind": "out_of_memory", "message": "out of memory", "where": null}')
        links[2][1].close()
        lost = watch.lost(5)
        assert lost is not None
        assert (str(lost), lost.kind) == ("rank 2 of 3: out of memory", "out_of_memory")
    finally:
        watch.close(None)


def test_a_rank_that_is_done_is_no_loss() -> None:
    def work(ranks: Ranks) -> int:
        if ranks.rank == 1:
            return 1
        time.sleep(1)
        return 0

    assert in_ranks(2, work) == [0, 1]


def test_without_ranks_an_error_stays_what_it_is() -> None:
    for error in (KeyboardInterrupt(), RunError("full", kind="disk_full"), ValueError("no")):
        with pytest.raises(type(error)) as caught, naming_the_lost():
            raise error
        assert caught.value is error


def named(monkeypatch: pytest.MonkeyPatch, **variables: Any) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", **variables}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("variables", "kind", "said"),
    [
        (
            {"NARFX_BACKEND": "carrier-pigeon"},
            "no_backend",
            "no backend 'carrier-pigeon': this torch has gloo",
        ),
        ({"NARFX_RANK_TIMEOUT": "soon"}, "ranks", "NARFX_RANK_TIMEOUT is 'soon'"),
        ({"NARFX_RANK_TIMEOUT": "-1"}, "ranks", "NARFX_RANK_TIMEOUT is '-1'"),
        ({"RANK": 5}, "ranks", "rank 5 of 2 does not exist"),
        ({"RANK": "first"}, "ranks", "start the ranks with torchrun"),
    ],
)
def test_what_names_no_group_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, Any], kind: str, said: str
) -> None:
    named(monkeypatch, **variables)
    with pytest.raises(UsageError) as caught, joined("cpu"):
        pass
    assert caught.value.kind == kind
    assert said in str(caught.value)


def test_ranks_that_do_not_come_are_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, MASTER_PORT=free_port(), NARFX_RANK_TIMEOUT="1")
    with pytest.raises(NarfxError) as caught, joined("cpu"):
        pass
    assert (caught.value.kind, caught.value.exit_code) == ("ranks_start", 7)
    assert "the 2 ranks did not find each other within 1 seconds" in str(caught.value)


@pytest.mark.parametrize(
    ("device", "backend", "said"), [("cuda:99", "gloo", "there is no device"), ("cpu", "nccl", "NCCL connects GPUs")]
)
def test_a_device_that_a_rank_lacks_is_one_error_of_all(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str, said: str
) -> None:
    if backend == "nccl" and not torch.distributed.is_nccl_available():
        pytest.skip("this torch has no NCCL")
    monkeypatch.setenv("NARFX_BACKEND", backend)
    found = in_ranks(2, lambda ranks: None, device)
    assert [type(error) for error in found] == [UsageError] * 2
    assert all(str(error).startswith("rank 0 of 2: ") and said in str(error) for error in found)


def test_torchrun_alone_names_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_of_environment() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")  # without RANK it is somebody else's
    assert ranks_of_environment() == Ranks()
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks_of_environment() == Ranks(3, 4, 1)
