"""Every path of a configuration is marked as one, and one function each rewrites and lists them all."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import narfx
from narfx.inputs.data_ref import DataRef
from narfx.inputs.paths import find, find_source, named_paths, relocate, relocated, split_name
from narfx.space.architecture import Architecture
from narfx.support.path_fields import PathKind, path_fields
from narfx.verbs.compare import CompareConfig
from narfx.verbs.evaluate import EvaluateConfig
from narfx.verbs.train import TrainConfig


def schemas() -> list[type[BaseModel]]:
    """Every configuration and file format of the package."""
    for module in pkgutil.walk_packages(narfx.__path__, "narfx."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = [], [BaseModel]
    while waiting:
        known = waiting.pop().__subclasses__()
        waiting += known
        found += [schema for schema in known if schema.__module__.startswith("narfx.")]
    return sorted(dict.fromkeys(found), key=lambda schema: schema.__qualname__)


SCHEMAS = schemas()
WITH_PATHS = [schema for schema in SCHEMAS if path_fields(schema)]

# What looks like a path by its name and is none.
NO_PATHS = {"names", "metrics"}
# What a run says of itself, for reading alone; the files of a front lie beside it and move with it.
RECORDS = {
    "About",
    "Entry",
    "Front",
    "FrontPoint",
    "NetworkRecord",
    "PointWeights",
    "Row",
    "SearchResult",
    "TrainResult",
}
LOOKS_LIKE_A_PATH = re.compile(
    r"(^|_)(files?|folders?|dirs?|paths?|model|models|data|weights|targets?|further|pairs|verify|source|checkpoint|out)$"
)


CODE = {"optimizer", "schedule", "augment"}


def test_no_path_is_unmarked() -> None:
    """A new field with the name or the type of a path must be marked, or be named here as none."""
    unmarked = [
        f"{schema.__name__}.{name}"
        for schema in SCHEMAS
        if schema.__name__ not in RECORDS
        for name, field in schema.model_fields.items()
        if name not in path_fields(schema) and name not in NO_PATHS
        if field.annotation is not int
        if LOOKS_LIKE_A_PATH.search(name) or "Path" in str(field.annotation)
    ]
    assert not unmarked
    assert {"Architecture", "SearchConfig", "TrainConfig", "CompareConfig", "EvaluateConfig", "LatencyOptions"} <= {
        schema.__name__ for schema in WITH_PATHS
    }


def test_no_path_lies_in_a_nested_record() -> None:
    """The functions look at a configuration's own fields alone."""
    for schema in SCHEMAS:
        for name, field in schema.model_fields.items():
            assert not any(inner.__name__ in str(field.annotation) for inner in WITH_PATHS), f"{schema}.{name}"


@pytest.mark.parametrize("schema", WITH_PATHS, ids=lambda schema: schema.__name__)
def test_each_path_is_rewritten_and_listed(schema: type[BaseModel], tmp_path: Path) -> None:
    """Of every class, each marked field leads from another folder to the file that it led to."""
    start, folder = tmp_path / "start", tmp_path / "deep" / "run"
    start.mkdir()
    folder.mkdir(parents=True)
    values: dict[str, Any] = {}
    files: dict[str, Path] = {}
    for name, kind in path_fields(schema).items():
        files[name] = start / f"{name}{'.json' if kind is PathKind.NAMED else '.py'}"
        files[name].write_text("")
        text = {PathKind.MODEL: f"{name}.py:Net?a=1#b", PathKind.SOURCE: f"{name}.py:factory", PathKind.NAMED: None}
        text[PathKind.CODE] = text[PathKind.SOURCE]
        values[name] = text.get(kind, f"{name}.py") or f"mine={name}.json"
        if "tuple" in str(schema.model_fields[name].annotation):
            values[name] = (values[name],)
    config = schema.model_construct(**values)
    moved = dict(relocated(config, folder, start=start))
    for name, file in files.items():
        (text,) = moved[name] if isinstance(moved[name], tuple) else (moved[name],)
        (old,) = values[name] if isinstance(values[name], tuple) else (values[name],)
        assert text != old and Path(old).name[-6:] == Path(text).name[-6:]  # what follows the path is kept
        path = re.sub(r"^mine=|:.*", "", text)
        assert not Path(path).is_absolute() and (folder / path).samefile(file)
    assert sorted(named_paths(config, start)) == sorted(files.values())
    assert dict(relocated(schema.model_construct(**moved), start, start=folder)).items() >= values.items()


def test_what_is_no_path_stays(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()  # narfx's digits are no folder, whatever lies here
    for data in ("digits", "package.module:factory", "torchvision:mnist"):
        config = EvaluateConfig(target="torchvision:resnet18?num_classes=3", data=data)
        assert relocated(config, tmp_path / "run", start=tmp_path) == config
        assert named_paths(config, tmp_path) == []
    assert path_fields(TrainConfig).keys() == {
        *CODE,
        "target",
        "data",
        "val_data",
        "weights",
        "teacher_model",
        "teacher_weights",
    }
    words: dict[str, Any] = {"augment": "crop", "schedule": "train", "optimizer": "torch.optim:AdamW", "lr": 1}
    training = TrainConfig(target="arch.json", data="torchvision:mnist:root", **words)
    moved = relocated(training, tmp_path / "run", start=tmp_path)
    assert {name: getattr(moved, name) for name in words} == words
    assert moved.val_data is None and moved.data.startswith("torchvision:mnist:")


def test_values_that_are_not_valid_yet(tmp_path: Path) -> None:
    """Those of a file that a user wrote: what is no text is left to the validation."""
    values = {"target": "a=b.json", "further": ["c.json", 3], "weights": 7, "data": None, "nonsense": "x"}
    (tmp_path / "b.json").write_text("")
    found = relocate(CompareConfig, values, tmp_path / "run", start=tmp_path)
    assert found == {"target": "a=../b.json"}


def test_targets_of_an_evaluation(tmp_path: Path) -> None:
    """A folder and an ONNX file are paths, not model references."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "net.onnx").write_text("")
    for target in ("bundle", "net.onnx", "gone.ONNX"):
        config = EvaluateConfig(target=target, data="digits")
        (path,) = named_paths(config, tmp_path)
        assert path.name == target
    moved = relocated(EvaluateConfig(target="bundle", data="digits"), tmp_path / "run", start=tmp_path)
    assert moved.target == "../bundle"


def test_a_name_before_a_path(tmp_path: Path) -> None:
    (tmp_path / "a=b.json").write_text("")
    assert split_name("mine=arch.json") == ("mine", "arch.json")
    assert split_name("arch.json") == (None, "arch.json")
    assert split_name("a=b.json") == ("a", "b.json")
    assert split_name("a=b.json", tmp_path) == (None, "a=b.json")


@pytest.mark.parametrize(
    ("text", "kind", "place", "name"),
    [
        ("digits", "digits", "", ""),
        ("torchvision:mnist:some/root", "torchvision", "some/root", "mnist"),
        ("torchvision:mnist", "torchvision", "", "mnist"),
        ("some/file.py:factory", "file", "some/file.py", "factory"),
        ("package.module:factory", "module", "package.module", "factory"),
        ("images", "path", "images", ""),
        ("some/faces.npz", "path", "some/faces.npz", ""),
        ("some/file.py:not-a-name", "path", "some/file.py:not-a-name", ""),
        ("here:there", "path", "here:there", ""),
    ],
)
def test_data_sources(
    text: str, kind: str, place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One grammar, for those who read data and those who rewrite paths; its text reads back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here:there").mkdir()  # a folder that exists is one, though its name looks like a factory
    ref = DataRef.parse(text)
    assert (ref.kind, ref.place, ref.name) == (kind, place, name)
    assert str(ref) == text
    assert (ref.path is None) == (kind in ("digits", "module") or not place)


def test_a_source_is_found_where_its_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_text("")
    assert find_source("d.npz", tmp_path) == str(tmp_path / "d.npz") == str(find("d.npz", tmp_path))
    assert find_source("d.npz:x", tmp_path) == "d.npz:x"
    for text in ("digits", "package.module:factory", "torchvision:mnist"):
        assert find_source(text, tmp_path) == text


def test_an_architecture_keeps_what_is_no_path(tmp_path: Path) -> None:
    own = Architecture(model="narfx:chain12", vector=(0, 1), metrics={"data": "d.npz"}, weights=None)
    assert relocated(own, tmp_path) == own
