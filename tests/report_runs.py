"""Small runs of each kind, made once for all tests of the reports, and what is read of a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from narfx.search import SearchConfig, run
from narfx.verbs.compare import CompareConfig, compare
from narfx.verbs.solve import solve
from narfx.verbs.train import TrainConfig, train

__all__ = ["SEARCH", "Reader", "copy_runs", "edit", "read"]

_TRAIN: dict[str, Any] = {"data": "digits", "data_fraction": 0.25, "batch_size": 64, "epochs": 2, "augment": "none"}
SEARCH: dict[str, Any] = {
    **_TRAIN, "model": "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10", "input": (1, 8, 8),
    "init": "scratch", "epochs": 3, "pretrain_epochs": 1, "steps": 3, "finalists": 3,
}  # fmt: skip
_made: list[Path] = []


def copy_runs(temporary: pytest.TempPathFactory, place: Path) -> Path:
    """A copy of runs that were made once: ``search``, ``joint`` (of skips too), ``train`` and ``compare``;
    ``front`` (of ``ddas``, over two costs) and ``solved`` (a range of budgets).
    """
    if not _made:
        _made.append(temporary.mktemp("runs"))
        _make(_made[0])
    copy = place / "work"
    shutil.copytree(_made[0], copy)
    return copy


def _make(folder: Path) -> None:
    run(SearchConfig.model_validate(SEARCH), folder / "search")
    joint = {**SEARCH, "strategy": "enas", "search_skips": True, "budget": "none", "epochs": 2}
    run(SearchConfig.model_validate(joint), folder / "joint")
    ddas = {"strategy": "ddas", "front": "macs,params", "front_points": 6, "strategy_options": {"warmup": 5}}
    run(SearchConfig.model_validate(SEARCH | ddas), folder / "front")
    _solve(folder)
    target = str(folder / "search" / "arch.json")
    train(TrainConfig.model_validate({**_TRAIN, "target": target}), folder / "train")
    compare(CompareConfig.model_validate({**_TRAIN, "target": target, "seeds": 2, "randoms": 2}), folder / "compare")


def _solve(folder: Path) -> None:
    base = {**_TRAIN, "target": SEARCH["model"], "input": SEARCH["input"], "epochs": 4, "t0": 4}
    weights = train(TrainConfig.model_validate(base), folder / "base")["files"]["weights"]
    known = {key: SEARCH[key] for key in (*_TRAIN, "model", "input", "finalists") if key != "epochs"}
    scores = {"weights": weights, "score_images": 64, "strategy_options": {"count": 2, "check": 4}}
    run(SearchConfig.model_validate({**known, **scores, "pretrain_epochs": 1, "epochs": 2}), folder / "scores")
    solve(folder / "scores", folder / "solved", budget="macs<=0.3x..0.9x", points=3)


def edit(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class Reader(HTMLParser):
    """What a page says and holds; void elements and nesting are checked on the way."""

    _VOID = ("meta", "link", "br", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes <{self._open[-1:]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        """All text that is seen, with single spaces."""
        return " ".join(" ".join(self.text).split())

    def named(self, tag: str, **attributes: str) -> Iterator[dict[str, str | None]]:
        """The attributes of the elements of a kind that have these attributes; ``class_`` is one of the classes."""
        wanted = attributes.pop("class_", None)
        for name, found in self.tags:
            classes = (found.get("class") or "").split()
            right = name == tag and (wanted is None or wanted in classes)
            if right and all(found.get(key) == value for key, value in attributes.items()):
                yield found


def read(path: Path) -> Reader:
    """Read a page; all elements are closed in their order."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert not reader._open
    return reader
