"""The command in a report: a shell and narfx make of it the configuration of the run, whatever that is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from report_runs import copy_runs

from narfx import search as searching
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.inputs.paths import relocated
from narfx.report.command import quoted, run_command
from narfx.search import SearchConfig
from narfx.verbs import compare as comparing
from narfx.verbs import train as training
from narfx.verbs.compare import CompareConfig
from narfx.verbs.train import TrainConfig

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00/:?#=,\n"), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and not text.endswith((".json", ".py"))
)
PATHS = st.builds("data/{}.npz".format, WORDS)
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "epochs": st.integers(5, 99), "lr": st.floats(1e-4, 1), "batch_size": st.integers(1, 512),
    "schedule": st.sampled_from(["search", "train"]), "channels_last": st.booleans(), "seed": st.integers(0, 2**40),
    "precision": st.sampled_from(["fp32", "bf16"]), "data_fraction": st.floats(0.01, 1),
    "input": st.tuples(*[st.integers(1, 64)] * 3), "val_data": PATHS, "max_train_images": st.integers(1, 9999),
    "task_options": st.fixed_dictionaries({"grey": st.sampled_from(["repeat", "refuse"])}),
}  # fmt: skip
SEARCH: dict[str, st.SearchStrategy[Any]] = {
    **COMMON, "budget": st.sampled_from(["none", "macs<=0.5x", "params<=1M,macs<=0.9x"]), "quick": st.booleans(),
    "strategy": st.sampled_from(["nar", "enas", "random", "solve"]), "init": st.sampled_from(["base", "scratch"]),
    "strategy_options": st.dictionaries(
        st.sampled_from(["hidden", "lr"]), st.one_of(st.integers(), st.booleans(), st.just("-1"), st.just("a b'c"))
    ),
    "operators": st.just(("base", "dwsep3x3", "maxpool3x3")), "kernels": st.just((3, 5)), "weights": PATHS,
    "search_skips": st.booleans(), "skips_from_input": st.booleans(), "max_candidate_params": st.floats(0.1, 3),
    "pretrain_epochs": st.integers(0, 4), "latency": st.booleans(), "latency_file": PATHS,
}  # fmt: skip
TRAIN: dict[str, st.SearchStrategy[Any]] = {
    **COMMON, "base": st.booleans(), "weights": PATHS, "init": st.sampled_from(["inherit", "scratch"]),
    "label_smoothing": st.floats(0, 0.5), "optimizer": st.just("torch.optim:AdamW"),
}  # fmt: skip
COMPARE: dict[str, st.SearchStrategy[Any]] = {
    **COMMON, "seeds": st.integers(1, 5), "randoms": st.integers(0, 9), "outputs": st.sampled_from(["auto", 7]),
    "further": st.lists(st.builds("{}.json".format, st.integers(0, 9)), max_size=2, unique=True).map(tuple),
}  # fmt: skip


def by_shell(command: str) -> list[str]:
    """The words that a shell makes of a command."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


class Caught(BaseException):
    """Carries the configuration that a verb was called with."""


def configuration(command: str, verb: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    """What narfx makes of a command, as far as the verb that would run it."""

    def caught(config: BaseModel, *_: Any, **__: Any) -> None:
        raise Caught(config)

    with monkeypatch.context() as patch:
        patch.setattr(verb, name, caught)
        with pytest.raises(Caught) as found:
            code = run_app(app, by_shell(command)[1:])
            raise AssertionError(f"{command} ended with {code}")
    config: BaseModel = found.value.args[0]
    return config


def options(choices: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=choices)


@pytest.mark.parametrize(
    ("kind", "schema", "verb", "name", "needed", "choices"),
    [
        ("search", SearchConfig, searching, "run", {"model": "narfx:resnet20"}, SEARCH),
        ("train", TrainConfig, training, "train", {"target": "narfx:resnet20"}, TRAIN),
        ("compare", CompareConfig, comparing, "compare", {"target": "arch.json"}, COMPARE),
    ],
)
def test_the_command_gives_the_configuration_back(
    kind: str, schema: type[BaseModel], verb: Any, name: str, needed: dict[str, str],
    choices: dict[str, st.SearchStrategy[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    @given(options(choices), PATHS)
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def check(fields: dict[str, Any], data: str) -> None:
        if "schedule" in fields and "optimizer" in fields:
            fields.pop("optimizer")
        if "optimizer" in fields:
            fields.setdefault("lr", 0.1)
        named = (
            data,
            *(fields.get(key) for key in ("val_data", "weights", "latency_file")),
            *fields.get("further", ()),
        )
        for path in filter(None, (*named, "arch.json")):
            (tmp_path / path).touch()
        config = schema.model_validate({**needed, "data": data, **fields})
        if fields.get("further"):
            config = config.model_copy(update={"names": tuple(f"n{i}" for i in range(1 + len(fields["further"])))})
        run = tmp_path / "a run"
        stored = relocated(config, run).model_dump(mode="json")
        command = run_command(kind, stored, run)
        assert command is not None, stored
        again = configuration(command, verb, name, monkeypatch)
        if fields.get("further"):  # the verb takes the names apart from the paths later
            paths = dict(again)
            told = [paths["target"], *paths["further"]]
            again = again.model_copy(update={"names": tuple(text.partition("=")[0] for text in told)})
            told = [text.partition("=")[2] for text in told]
            again = again.model_copy(update={"target": told[0], "further": tuple(told[1:])})
        assert again == config, command

    check()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_shell_reads_the_words_as_they_were(words: list[str]) -> None:
    assert by_shell(quoted(words)) == words


def test_a_configuration_that_this_version_does_not_know(tmp_path: Path) -> None:
    assert run_command("search", {"model": "narfx:resnet20", "data": "digits", "colour": "red"}, tmp_path) is None
    assert run_command("search", {"model": 5}, tmp_path) is None


def test_the_search_that_is_repeated_gives_the_same_result(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both commands of a report, as they stand there."""
    runs = copy_runs(tmp_path_factory, tmp_path)
    monkeypatch.chdir(runs)
    config = json.loads((runs / "search" / "config.json").read_text())
    first = run_command("search", config, runs / "search")
    assert first is not None and first.endswith("--out search-again")
    for command in (first, "narfx search --config search/config.json --out other"):
        words = by_shell(command)
        assert run_app(app, [*words[1:], "-q"]) == 0
        assert json.loads((runs / words[-1] / "config.json").read_text()) == config
        for name in ("arch.json", "about.json", "result.json"):
            assert (runs / words[-1] / name).read_bytes() == (runs / "search" / name).read_bytes()
