"""What the ranks of a run tell each other: the only calls of ``torch.distributed`` outside of :mod:`..joining`.

All ranks call the same functions in the same order. With one rank each function returns at once. Plain values travel as
JSON over gloo, tensors over the backend of the run (NCCL between GPUs).

Sums of tensors have the same bits on all ranks: the backend adds up each piece in one place and sends the result
round. With the same number of ranks they also have the same bits in every run on a CPU.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from narfx.errors import RunError
from narfx.support.devices import is_out_of_memory
from narfx.support.ranks import Ranks
from narfx.support.text import first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "LOST_CONTACT",
    "Crew",
    "average_buffers",
    "average_gradients",
    "broadcast",
    "differing",
    "equalise",
    "gather",
    "share_state",
    "use_group",
]

LOST_CONTACT = "rank_lost"
"""The kind of the error that a rank raises when another one does not answer."""

_tensor_group: list[Any] = [None]


def use_group(group: Any) -> None:
    """Let a GPU's tensors travel over this group of ``torch.distributed``, ``None`` for the default one."""
    _tensor_group[0] = group


@contextmanager
def _contact() -> Iterator[None]:
    """A call that another rank does not answer is a ``RunError``."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise RunError(
            f"another rank does not answer ({first_line(error)[:200]}); NARFX_RANK_TIMEOUT sets how many seconds a "
            "rank waits",
            kind=LOST_CONTACT,
        ) from error


def gather(ranks: Ranks, value: Any) -> list[Any]:
    """The plain values of all ranks, in the order of the ranks, on every rank."""
    if ranks.alone:
        return [value]
    import torch
    from torch import distributed

    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.size)]
    with _contact():
        distributed.all_gather(lengths, torch.tensor([len(mine)]))
        longest = max(int(length) for length in lengths)
        padded = torch.nn.functional.pad(mine, (0, longest - len(mine)))
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(ranks.size)]
        distributed.all_gather(texts, padded)
    return [json.loads(_bytes(text[: int(length)])) for text, length in zip(texts, lengths, strict=True)]


def broadcast(ranks: Ranks, value: Any) -> Any:
    """The plain value of rank 0, on every rank; what the others give is ignored. Tuples become lists there."""
    if ranks.alone:
        return value
    sent = _broadcast_bytes(ranks, json.dumps(value).encode() if ranks.first else b"")
    return value if ranks.first else json.loads(sent)


def share_state(ranks: Ranks, state: Any) -> Any:
    """The checkpoint that rank 0 has read, tensors and plain values, on every rank."""
    if ranks.alone:
        return state
    import torch

    buffer = io.BytesIO()
    if ranks.first:
        torch.save(state, buffer)
    sent = _broadcast_bytes(ranks, buffer.getvalue())
    return state if ranks.first else torch.load(io.BytesIO(sent), map_location="cpu", weights_only=True)


def _broadcast_bytes(ranks: Ranks, content: bytes) -> bytes:
    import torch
    from torch import distributed

    length = torch.tensor([len(content)])
    with _contact():
        distributed.broadcast(length, 0)
        sent = torch.zeros(int(length), dtype=torch.uint8)
        if ranks.first:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(sent, 0)
    return content if ranks.first else _bytes(sent)


def _bytes(sent: Tensor) -> bytes:
    return bytes(sent.numpy())


def equalise(ranks: Ranks, *modules: nn.Module) -> None:
    """Give all ranks the parameters and buffers that rank 0 has."""
    if not ranks.alone:
        _send([tensor for module in modules for tensor in (*module.parameters(), *module.buffers())])


def average_buffers(ranks: Ranks, *modules: nn.Module) -> None:
    """Give all ranks the mean of their floating-point buffers, and rank 0's other ones.

    So the running averages of a BatchNorm are those of the images of all ranks. A buffer that is equal on all ranks
    stays as it is, bit for bit.
    """
    if ranks.alone:
        return
    buffers = [buffer for module in modules for buffer in module.buffers()]
    own = [buffer.clone() for buffer in buffers]
    _send(buffers)
    pairs = [pair for pair in zip(buffers, own, strict=True) if pair[0].is_floating_point()]
    for group in _alike([buffer for buffer, _ in pairs]):
        apart = _flat([pairs[index][1] - pairs[index][0] for index in group])
        _sum(apart)
        for index, piece in zip(group, _pieces(apart, [pairs[index][0] for index in group]), strict=True):
            pairs[index][0].add_(piece / ranks.size)


def average_gradients(ranks: Ranks, parameters: Sequence[nn.Parameter], loss: float, images: int) -> float:
    """Average the gradients of one step over the ranks where they exist, weighted by the images of each rank.

    A parameter without a gradient on any rank gets none. Afterwards all ranks hold the same bits. An operator of a
    supernet that one rank alone has used moves as far as one that all have used: its gradient is the mean over its
    own images.

    Args:
        ranks: This rank and all of them.
        parameters: The same parameters in the same order on all ranks.
        loss: The mean loss of this rank's images.
        images: How many these are.

    Returns:
        The mean loss of the images of all ranks; NaN on all ranks where one has NaN.
    """
    if ranks.alone:
        return loss
    import torch

    used = [float(images) if parameter.grad is not None else 0.0 for parameter in parameters]
    counts = torch.tensor([*used, images * loss, images], dtype=torch.float64)
    _sum(counts)
    *totals, losses, all_images = counts.tolist()
    active = [(parameter, total) for parameter, total in zip(parameters, totals, strict=True) if total]
    for group in _alike([parameter for parameter, _ in active]):
        chosen = [active[index][0] for index in group]
        flat = _flat([torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]).mul_(images)
        _sum(flat)
        for index, piece in zip(group, _pieces(flat, chosen), strict=True):
            parameter, total = active[index]
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            torch.div(piece, total, out=parameter.grad)
    return float(losses / all_images)


def _send(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors by those of rank 0."""
    from torch import distributed, no_grad

    with no_grad(), _contact():
        for group in _alike(tensors):
            chosen = [tensors[index] for index in group]
            flat = _flat(chosen)
            distributed.broadcast(flat, 0, group=_group_of(flat))
            for tensor, piece in zip(chosen, _pieces(flat, chosen), strict=True):
                tensor.copy_(piece)


def _sum(tensor: Tensor) -> None:
    """Add up a tensor over the ranks, in place."""
    from torch import distributed

    with _contact():
        distributed.all_reduce(tensor, group=_group_of(tensor))


def _group_of(tensor: Tensor) -> Any:
    """The group over which a tensor travels; what lies on the CPU goes by the default one, gloo."""
    return _tensor_group[0] if tensor.is_cuda else None


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The indices of tensors that can be sent as one: of one number format on one device."""
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.numel():
            groups.setdefault((tensor.dtype, tensor.device), []).append(index)
    return list(groups.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _pieces(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


class Crew:
    """Work that rank 0 hands out piece by piece and all ranks do together; with one rank it is a plain loop.

    Rank 0 calls the crew with items, as often as it likes. The others :meth:`follow` until rank 0 leaves the ``with``
    block. Items and results are plain values.

    Args:
        ranks: This rank and all of them.
        work: From one item to its result, on any rank.
    """

    def __init__(self, ranks: Ranks, work: Callable[[Any], Any]) -> None:
        self._ranks, self._work = ranks, work

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        """The results of these items, each computed on one rank."""
        broadcast(self._ranks, list(items))
        return self._do(items)

    def follow(self) -> None:
        """Do this rank's share of what rank 0 hands out, until it hands out nothing more."""
        while (items := broadcast(self._ranks, None)) is not None:
            self._do(items)

    def dismiss(self) -> None:
        """Let the others go on: rank 0 hands out nothing more."""
        broadcast(self._ranks, None)

    def _do(self, items: Sequence[Any]) -> list[Any]:
        mine = [self._work(item) for item in self._ranks.share(items)]
        return self._ranks.merged(gather(self._ranks, mine))


def differing(ranks: Ranks, values: Mapping[str, str]) -> tuple[int, list[str]] | None:
    """The first rank whose values are not those of rank 0, and the names of these values; ``None`` if all agree."""
    first, *others = gather(ranks, dict(values))
    for rank, theirs in enumerate(others, 1):
        names = sorted(name for name in first.keys() | theirs.keys() if first.get(name) != theirs.get(name))
        if names:
            return rank, names
    return None
