"""Digests by which narfx knows again what it wrote: SHA-256 of files, of JSON objects and of bytes.

They find accidents (a flipped bit, a file cut short, an edit by mistake), not forgery.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.support.files import check_regular, read_json, write_json

__all__ = [
    "SEAL",
    "EditedFileWarning",
    "damaged",
    "digest",
    "file_digest",
    "read_sealed",
    "seal_bytes",
    "sealed",
    "unsealed",
    "unsealed_bytes",
    "write_sealed",
]

SEAL = "digest"
_LENGTH = hashlib.sha256().digest_size
_ZIP_END = slice(-22, -18), b"PK\x05\x06"


class EditedFileWarning(UserWarning):
    """A file that narfx wrote, and that people may edit, is not what was written."""


def digest(parts: Iterable[bytes | memoryview | str]) -> str:
    """SHA-256 of these parts in their order, as hexadecimal digits; parts are kept apart by their lengths."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(memoryview(content).nbytes.to_bytes(8, "little"))
        total.update(content)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        UsageError: There is no such file, or it cannot be read.
    """
    check_regular(path, f"there is no file {path}: check the path")
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", where=str(path), kind="unreadable_file") from error


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of all its other values, whatever their order and the white space in a file."""
    return {**values, SEAL: digest([json.dumps(values, sort_keys=True, allow_nan=False)])}


def unsealed(values: Any, where: Path) -> Any:
    """A JSON object that people may edit, without its digest; what has none was written by hand.

    Warns:
        EditedFileWarning: The digest is not that of the values.
    """
    if not isinstance(values, dict) or SEAL not in values:
        return values
    rest = {key: value for key, value in values.items() if key != SEAL}
    if not _holds(values):
        warnings.warn(
            f'{where} was changed after narfx wrote it: if that is meant, delete its entry "{SEAL}"',
            EditedFileWarning,
            stacklevel=2,
        )
    return rest


def _holds(values: Mapping[str, Any]) -> bool:
    return bool(sealed({key: value for key, value in values.items() if key != SEAL})[SEAL] == values[SEAL])


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with its digest, atomically."""
    write_json(path, sealed(values))


def read_sealed(path: Path, cure: str) -> dict[str, Any]:
    """What :func:`write_sealed` wrote.

    Raises:
        UsageError: The file is missing or not JSON, or it is not what was written; the message then ends in ``cure``.
    """
    values = read_json(path)
    if not isinstance(values, dict) or SEAL not in values or not _holds(values):
        raise damaged(path, cure)
    return {key: value for key, value in values.items() if key != SEAL}


def seal_bytes(content: bytes) -> bytes:
    """The content, and its digest after it."""
    return content + hashlib.sha256(content).digest()


def unsealed_bytes(content: bytes) -> bytes | None:
    """The content without its digest; ``None`` where the digest is not that of the content.

    A zip file, as ``torch.save`` and older versions of narfx write it, has none after its end.
    """
    place, mark = _ZIP_END
    if content[place] == mark:
        return content
    inner = content[:-_LENGTH]
    return inner if hashlib.sha256(inner).digest() == content[-_LENGTH:] else None


def damaged(where: Path, cure: str) -> UsageError:
    """The error for a file that is not what narfx wrote."""
    return UsageError(
        f"{where} is damaged, or was changed after narfx wrote it (its digest differs): {cure}",
        where=str(where),
        kind="damaged_file",
    )
