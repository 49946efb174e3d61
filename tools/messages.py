"""List every sentence that narfx says to its users, with file and line: errors, warnings, notes and help.

Found in the syntax trees of narfx/ and passes/, so a sentence is listed as it is written, with its placeholders.

    python tools/messages.py                  # all
    python tools/messages.py --kind error     # one kind
    python tools/messages.py --json
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

__all__ = ["KINDS", "Message", "messages"]

ROOT = Path(__file__).parents[1]
KINDS = ("error", "warning", "note", "help")
_HELPERS = {"_text": 0, "_whole": 0, "_number": 0, "_flag": 1}
"""The functions of narfx.cli.options that make an option, and where their help text stands."""


_SPEAKERS = {"warn": "warning", "say": "note"}


@dataclass(frozen=True)
class Message:
    """One sentence: where it stands, for whom it is, and its text with ``{...}`` for each value."""

    file: str
    line: int
    kind: str
    text: str


@cache
def messages(root: Path = ROOT) -> list[Message]:
    """All messages of the checkout in ``root``, by file and line."""
    files = [*(root / "narfx").rglob("*.py"), *(root / "passes").rglob("*.py")]
    trees = {file.relative_to(root).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)}
    makers = _makers(trees.values())
    found = {
        Message(file, node.lineno, kind, text)
        for file, tree in trees.items()
        for kind, node in _sentences(tree, makers, verbs=file.startswith("narfx/cli/"))
        for text in _texts(node)
        if " " in text.strip()
    }
    return sorted(found, key=lambda message: (message.file, message.line, message.text))


def _makers(trees: Iterable[ast.Module]) -> dict[str, int]:
    """The functions that make an error of a ``message``, a ``cure`` or a ``reason``, and that argument's position."""
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {
        function.name: position
        for function in functions
        for position, argument in enumerate(entry for entry in function.args.args if entry.arg != "self")
        if argument.arg in ("message", "cure", "reason") and function.name not in _SPEAKERS
    }


def _sentences(tree: ast.Module, makers: dict[str, int], *, verbs: bool) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if verbs and isinstance(node, ast.FunctionDef) and any("takes" in ast.unparse(d) for d in node.decorator_list):
            first = node.body[0]
            if isinstance(first, ast.Expr):
                yield "help", first.value
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _HELPERS and verbs and len(node.args) > _HELPERS[name]:
            yield "help", node.args[_HELPERS[name]]
        for keyword in node.keywords:
            if keyword.arg == "help" and verbs:
                yield "help", keyword.value
            elif keyword.arg == "notes" and isinstance(keyword.value, ast.Tuple):
                yield from (("note", entry) for entry in keyword.value.elts)
        if name == "append" and node.args and ast.unparse(node.func).endswith("notes.append"):
            yield "note", node.args[0]
        elif name in _SPEAKERS and node.args:
            yield _SPEAKERS[name], node.args[0]
        elif name.endswith("Error") and node.args and name not in ("KeyError", "AttributeError"):
            yield "error", node.args[0]
        elif name in makers and len(node.args) > makers[name]:
            yield "error", node.args[makers[name]]


def _texts(node: ast.expr) -> list[str]:
    """What an expression may say: each branch of a choice is a text."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = (
            "{" + ast.unparse(part.value) + "}" if isinstance(part, ast.FormattedValue) else ast.literal_eval(part)
            for part in node.values
        )
        return ["".join(parts)]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _texts(node.left), _texts(node.right)
        return [one + other for one in left or ["{...}"] for other in right or ["{...}"]] if left or right else []
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list."""
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, help="Only this kind.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    options = parser.parse_args(arguments)
    found = [message for message in messages() if options.kind in (None, message.kind)]
    if options.json:
        print(json.dumps([asdict(message) for message in found], indent=2))
    else:
        for message in found:
            print(f"{message.file}:{message.line}: {message.kind}: {message.text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
