"""What the drills share: their options, the record from which a stopped drill goes on, and how they end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

__all__ = ["Record", "drill_parser", "finish"]


class Record:
    """A file of JSON lines, one for each thing that was tried; each line has the seed of its drill."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        path.parent.mkdir(parents=True, exist_ok=True)

    def entries(self) -> list[dict[str, Any]]:
        """The entries of this seed."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["seed"] == self.seed]

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one entry."""
        with self.path.open("a") as stream:
            stream.write(json.dumps({**entry, "seed": self.seed}) + "\n")


def drill_parser(description: str, name: str) -> argparse.ArgumentParser:
    """A parser with the options of every drill; its folder is ``build/NAME`` by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="The seed of all draws [0].")
    parser.add_argument("--out", type=Path, default=Path("build", name), help=f"The output folder [build/{name}].")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    return parser


def finish(found: Mapping[str, Any], show: Callable[[Mapping[str, Any], Console], None], *, as_json: bool) -> int:
    """Print the result of a drill; the exit code is 1 where ``found["faults"]`` lists a fault, else 0."""
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found, Console())
    return 1 if found["faults"] else 0
