"""InsightFace's ``.bin`` of verification pairs: a pickle, read in a way that cannot run code.

The file is a pickle of (2 N encoded images, N flags "same person"), often written by Python 2. It is guarded twice.
First the opcodes are scanned: only the few that such a file needs are allowed (no dictionaries, instances or extension
codes), and no memo index beyond the file's length, which could exhaust memory. Then an unpickler resolves all names to
constructors in this module, so the file cannot reach any object of numpy or Python.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from narfx.errors import UsageError
from narfx.support.files import check_regular
from narfx.support.text import count

__all__ = ["read_bin"]

# How an opcode's argument is stored: a fixed number of bytes, a number of lines, or a length field of n bytes first.
_FIXED = {
    **dict.fromkeys(b"(.012N]aelt)Rb\x85\x86\x87\x88\x89\x93\x94", 0),
    **dict.fromkeys(b"Khq\x80", 1),
    ord("M"): 2,
    **dict.fromkeys(b"Jjr", 4),
    0x95: 8,
}
_LINES = {**dict.fromkeys(b"ILSVgp", 1), ord("c"): 2}
_COUNTED = {**dict.fromkeys(b"UC\x8a\x8c", 1), **dict.fromkeys(b"TBX\x8b", 4), **dict.fromkeys(b"\x8e\x96\x8d", 8)}
_PUTS = b"pqr"
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


class _RefusedError(Exception):
    """The file has something that no file of pairs needs; the text names it."""


def read_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """Read a ``.bin`` of pairs; no code in it is ever run.

    Returns:
        The encoded images, two for each pair, and for each pair whether it shows one person.

    Raises:
        UsageError: The file is missing, truncated, not a file of pairs, or tries to run code.
    """
    try:
        if path.exists():
            check_regular(path, f"there is no file {path}")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}: check the path", where=str(path), kind="missing_data") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", where=str(path), kind="unreadable") from error
    try:
        _scan(content)
        value = _Unpickler(content).load()
    except _RefusedError as error:
        raise UsageError(
            f"{path} contains {error}, which no file of pairs needs: it may be an attack and was not read",
            where=str(path),
            kind="hostile_pickle",
        ) from error
    except Exception as error:  # a damaged pickle can raise any exception
        raise UsageError(
            f"{path} is not a .bin of pairs, or it is truncated: it must be a pickle of (encoded images, flags)",
            where=str(path),
            kind="bad_bin",
        ) from error
    return _checked(value, path)


def _scan(content: bytes) -> None:
    """Walk over all opcodes without executing any.

    Raises:
        _RefusedError: An opcode is not in the tables, or a memo index is larger than the file can need.
        ValueError: The pickle does not end.
    """
    position, steps, end = 0, 0, len(content)
    while position < end:
        opcode, start = content[position], position + 1
        position, steps = start, steps + 1
        if opcode in _FIXED:
            position += _FIXED[opcode]
        elif opcode in _LINES:
            for _ in range(_LINES[opcode]):
                position = content.index(b"\n", position) + 1
        elif opcode in _COUNTED:
            width = _COUNTED[opcode]
            position += width + int.from_bytes(content[start : start + width], "little")
        else:
            raise _RefusedError(f"the pickle opcode {bytes([opcode])!a}")
        if opcode in _PUTS:
            index = int(content[start:position]) if opcode == ord("p") else _little(content[start:position])
            if index > steps:
                raise _RefusedError(f"the memo index {index} after {steps} opcodes")
        if opcode == ord("."):
            return
    raise ValueError("the pickle has no end")


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")


class _Name:
    """A name that the file may use as an argument; it cannot be called or changed."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        # Without this method BUILD would set any attribute.
        raise _RefusedError("a state for an object that has none")


class _Constructor(_Name):
    """A name that the file may call; the call runs a function of this module."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


class _DType:
    """A dtype: one of numpy's booleans and integers."""

    def __init__(self, name: Any, *_: Any) -> None:
        text = _text(name)
        if text not in _NUMBERS:
            raise _RefusedError("an array or number of another type than booleans and integers")
        self.name, self.order = text, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if _text(state[1]) == ">" else "<"


class _Array:
    """A numpy array of bytes or booleans; its content is not copied from the file."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.content: bytes | bytearray = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, content = state
        self.fill(content, kind, shape)

    def fill(self, content: Any, kind: Any, shape: Any) -> _Array:
        if not isinstance(kind, _DType) or kind.name not in ("u1", "b1"):
            raise _RefusedError("an array of another type than uint8 and booleans")
        sizes = [int(size) for size in shape]
        most = len(content) if isinstance(content, (bytes, bytearray)) else -1
        if len(sizes) > 4 or any(not 0 <= size <= most for size in sizes) or math.prod(sizes) != most:
            raise ValueError("an array whose shape does not match its content")
        self.shape, self.content = tuple(sizes), content
        return self


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value) if isinstance(value, str) else ""


def _scalar(kind: Any, content: Any) -> int | bool:
    if not isinstance(kind, _DType) or not isinstance(content, bytes):
        raise ValueError("a number without a dtype or content")
    value: int | bool = np.frombuffer(content, np.dtype(kind.order + kind.name), count=1)[0].item()
    return value


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves names to constructors of this module and limits their output to the file's size."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), fix_imports=False, encoding="bytes")
        self._left = len(content)
        array = _Constructor(lambda *_: _Array())
        scalar = _Constructor(_scalar)
        buffer = _Constructor(lambda content, kind, shape, order=None: _Array().fill(content, kind, shape))
        self._names: dict[tuple[str, str], _Name] = {
            ("numpy", "ndarray"): _Name(),
            ("numpy", "dtype"): _Constructor(_DType),
            ("_codecs", "encode"): _Constructor(self._encode),
            **{(f"numpy.{core}.multiarray", "_reconstruct"): array for core in ("core", "_core")},
            **{(f"numpy.{core}.multiarray", "scalar"): scalar for core in ("core", "_core")},
            **{(f"numpy.{core}.numeric", "_frombuffer"): buffer for core in ("core", "_core")},
        }

    def find_class(self, module: str, name: str) -> Any:
        """The constructor for a name; ``_RefusedError`` for any other name."""
        found = self._names.get((module, name))
        if found is None:
            raise _RefusedError(f"the name {module[:60]}.{name[:60]}".encode("ascii", "backslashreplace").decode())
        return found

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """Bytes as Python 3 writes them for Python 2; limited, because a repeated call could exhaust memory."""
        self._left -= len(text)
        if self._left < 0 or _text(encoding) not in ("latin1", "latin-1"):
            raise _RefusedError("texts that are encoded repeatedly, or not as latin-1")
        return str(text).encode("latin-1")


def _checked(value: Any, path: Path) -> tuple[list[bytes], list[bool]]:
    def wrong(what: str) -> UsageError:
        return UsageError(
            f"{path} {what}: a .bin has two encoded images and one flag for each pair", where=str(path), kind="bad_bin"
        )

    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise wrong("is not a pair (images, flags)")
    images, flags = value
    if isinstance(flags, _Array):
        flags = list(flags.content)
    if not isinstance(images, (list, tuple)) or not isinstance(flags, (list, tuple)):
        raise wrong("has no lists of images and flags")
    if any(not isinstance(flag, int) or flag not in (0, 1) for flag in flags):
        raise wrong("has a flag that is neither true nor false")
    encoded = [image.content if isinstance(image, _Array) and len(image.shape) == 1 else image for image in images]
    if any(not isinstance(image, (bytes, bytearray)) for image in encoded):
        raise wrong("has an image that is not a byte string")
    if len(encoded) != 2 * len(flags) or not flags:
        raise wrong(f"has {count(len(encoded), 'image')} and {count(len(flags), 'flag')}")
    once = {id(image): bytes(image) for image in encoded}  # one image may be in many pairs
    return [once[id(image)] for image in encoded], [bool(flag) for flag in flags]
