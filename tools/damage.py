"""Random damage to the content of a file: flipped bits, pieces cut or doubled, other values and keys in JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**63, 10**30, -0.5, 1e308, 5e-324, "", "x", "x" * 10_000, "\x1b[2J", "../..",
    "narfx:resnet8", [], [0], [[]], {}, {"a": 1},
)  # fmt: skip


def mutated(content: bytes, draw: random.Random, *, as_json: bool) -> bytes:
    """The content after one to three mutations."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        if as_json and draw.random() < 0.6:
            content = _other_json(content, draw)
        elif content:
            content = draw.choice((_flipped, _flipped, _cut, _without, _doubled, _zeroed))(content, draw)
    return content


def _flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(content))
    return start, min(len(content), start + draw.choice((1, 4, 32, 512)))


def _without(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _doubled(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:]


def _zeroed(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _other_json(content: bytes, draw: random.Random) -> bytes:
    """The JSON, or one line of it, with one value, key or entry changed; what is no JSON any more stays."""
    lines = content.splitlines(keepends=True) if content.count(b"\n{") else [content]
    chosen = draw.randrange(max(len(lines), 1))
    try:
        value = json.loads(lines[chosen])
        places = list(_places(value))
        holder, key = draw.choice(places)
    except (ValueError, IndexError, RecursionError):
        return content
    action = draw.randrange(4)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[draw.choice(("x", f"{key}s", ""))] = holder.pop(key)
    elif action == 1:
        holder.insert(key, holder[key])
    else:
        holder[key] = draw.choice(VALUES)
    lines[chosen] = json.dumps(value).encode() + b"\n"
    return b"".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)
