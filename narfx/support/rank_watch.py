"""Notices within seconds that another rank of a run has ended, also one that was killed or whose machine is gone.

Each rank keeps one connection to rank 0, on which nothing is said until one of both ends: then it says why, in one JSON
object. Where a process is killed, the system closes the connection without a word; where a machine is gone, TCP's
keepalive does so. What computes is interrupted, and where that does not help within a grace, the process is ended.
"""

from __future__ import annotations

import json
import secrets
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from narfx.errors import LostRankError, NarfxError
from narfx.support.collectives import LOST_CONTACT, broadcast
from narfx.support.ranks import Ranks

__all__ = ["GRACE", "Watch", "connect"]

GRACE = 15.0
"""Seconds that a rank has to end by itself when another one has ended."""

_IDLE, _PROBE, _PROBES = 10, 5, 4  # seconds: a machine that is gone is noticed after 30
_PAUSE = 2.0
_MOST = 1 << 20
_KILLED = "rank_killed"
_LOCAL = ("localhost", "127.0.0.1", "::1")

GiveUp = Callable[[LostRankError], None]


class Watch:
    """The connections of one rank to others, and the thread that listens to them.

    Args:
        size: How many ranks there are.
        links: A connection for each rank that is watched.
        give_up: Called in another thread when the main thread does not end within the grace; it ends the process.
        grace: Seconds.
    """

    def __init__(self, size: int, links: Mapping[int, socket.socket], give_up: GiveUp, grace: float = GRACE) -> None:
        self._size, self._links, self._give_up, self._grace = size, dict(links), give_up, grace
        self._ended: list[LostRankError] = []
        self._heard = threading.Condition()
        self._closed = self._asked = False
        self._timers: list[threading.Timer] = []
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="narfx-ranks", daemon=True)
        self._thread.start()

    def lost(self, wait: float) -> LostRankError | None:
        """The rank that ended in failure, within so many seconds; of several one that ended by itself.

        From now on nothing is interrupted: the main thread is about to end.
        """
        with self._heard:
            self._asked = True
            self._heard.wait_for(lambda: any(map(_is_cause, self._ended)), wait)
            return next(filter(_is_cause, self._ended), next(iter(self._ended), None))

    def close(self, failure: NarfxError | None) -> None:
        """Say to the others how this rank ends, and listen no more."""
        with self._heard:
            self._closed = True
            for timer in self._timers:
                timer.cancel()
        text = json.dumps(_described(failure)).encode()
        for link in self._links.values():
            with suppress(OSError):
                link.sendall(text)
                link.shutdown(socket.SHUT_WR)
        self._waker.close()
        self._thread.join(1)
        for link in (self._wake, *self._links.values()):
            link.close()

    def _listen(self) -> None:
        read = dict.fromkeys(self._links, b"")
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._wake, selectors.EVENT_READ)
            for rank, link in self._links.items():
                waiting.register(link, selectors.EVENT_READ, rank)
            while True:
                for key, _ in waiting.select():
                    if key.data is None:
                        return
                    part = _received(self._links[key.data])
                    read[key.data] += part
                    if not part or len(read[key.data]) > _MOST:
                        waiting.unregister(self._links[key.data])
                        self._end(key.data, read[key.data])

    def _end(self, rank: int, text: bytes) -> None:
        """A rank has ended, and this is what it said."""
        error = _read(rank, self._size, text)
        with self._heard:
            if error is None or self._closed:
                return
            self._ended.append(error)
            self._heard.notify_all()
            if self._timers:
                return
            # What a rank says of itself, such as a wrong option, most often holds for this one too, and is raised here.
            pause = 0 if error.kind == _KILLED else _PAUSE
            self._timers = [threading.Timer(pause, self._interrupt), threading.Timer(self._grace, self._end_all)]
            for timer in self._timers:
                timer.daemon = True
                timer.start()

    def _interrupt(self) -> None:
        with self._heard:
            if not self._asked and not self._closed:
                handled = callable(signal.getsignal(signal.SIGTERM))
                number = signal.SIGTERM if handled else signal.SIGINT
                signal.pthread_kill(threading.main_thread().ident or 0, number)  # it also ends a wait

    def _end_all(self) -> None:
        lost = self.lost(0)
        if lost is not None and not self._closed:
            self._give_up(lost)


def connect(ranks: Ranks, host: str, give_up: GiveUp, seconds: float) -> Watch:
    """Connect all ranks with rank 0, whose machine is ``host``; all of them call this at once.

    Raises:
        OSError: A connection cannot be made within so many seconds.
    """
    if ranks.first:
        return Watch(ranks.size, _accept(ranks, host, seconds), give_up)
    port, token = broadcast(ranks, None)
    link = socket.create_connection((host, port), seconds)
    link.sendall(f"{token}{ranks.rank:8d}".encode())
    return Watch(ranks.size, {0: _kept_alive(link)}, give_up)


def _accept(ranks: Ranks, host: str, seconds: float) -> dict[int, socket.socket]:
    token = secrets.token_hex(16)
    with _server(host) as server:
        broadcast(ranks, [server.getsockname()[1], token])
        server.settimeout(seconds)
        links: dict[int, socket.socket] = {}
        while len(links) < ranks.size - 1:
            link, _ = server.accept()
            link.settimeout(seconds)
            said = b""
            with suppress(OSError):
                while len(said) < len(token) + 8 and (part := link.recv(len(token) + 8 - len(said))):
                    said += part
            if said[: len(token)] == token.encode():  # else it is a stranger
                links[int(said[len(token) :])] = _kept_alive(link)
    return links


def _server(host: str) -> socket.socket:
    if host in _LOCAL:
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        return socket.create_server(("::1" if host == "::1" else "127.0.0.1", 0), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _kept_alive(link: socket.socket) -> socket.socket:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _PROBE), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link


def _received(link: socket.socket) -> bytes:
    try:
        return link.recv(65_536)
    except OSError:
        return b""


def _is_cause(error: LostRankError) -> bool:
    """Whether a rank ended by itself, and not because another one did."""
    return error.kind != LOST_CONTACT


def _described(failure: NarfxError | None) -> dict[str, object]:
    if failure is None:
        return {"code": 0}
    return {"code": failure.exit_code, "kind": failure.kind, "message": str(failure), "where": failure.where}


def _read(rank: int, size: int, text: bytes) -> LostRankError | None:
    """The error for a rank that ended with these words; ``None`` for one that is done."""
    try:
        said = json.loads(text)
        code, kind, message, where = (said.get(key) for key in ("code", "kind", "message", "where"))
    except (ValueError, AttributeError):
        return LostRankError(
            f"rank {rank} of {size} ended without a word: it was killed or it crashed, or its machine is gone",
            code=LostRankError.exit_code,
            kind=_KILLED,
        )
    if code == 0:
        return None
    return LostRankError(f"rank {rank} of {size}: {message}", code=int(code), kind=str(kind), where=where)
