"""What each verb imports: help and usage errors wait for nothing heavy, and no verb imports what it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from narfx.cli.app import app
from narfx.data.forms import all_forms, own_forms
from narfx.data.registry import source_forms
from narfx.search import strategy_names

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "matplotlib", "sklearn", "scipy", "networkx", "numpy")


def verbs(group: object, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, as its words."""
    for name, command in getattr(group, "commands", {}).items():
        yield (*before, name)
        yield from verbs(command, (*before, name))


VERBS = list(verbs(typer.main.get_command(app)))


RUN = f"""
import contextlib, io, json, os, sys
def run(arguments):
    from narfx.cli.app import app
    from narfx.cli.console import run_app
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app(app, arguments)
    return [code, out.getvalue(), err.getvalue(), [name for name in {HEAVY!r} if name in sys.modules]]
"""
TOGETHER = RUN + "print(json.dumps([run(arguments) for arguments in json.loads(sys.argv[1])]))"
APART = (
    RUN
    + """
import torch  # once for all; no heavier module comes with it
for arguments in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if not (child := os.fork()):
        print(json.dumps(run(arguments)), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
)
Ended = tuple[int, str, str, set[str]]


def imported(commands: Sequence[Sequence[str]], folder: Path, code: str = TOGETHER) -> list[Ended]:
    """Run commands one after the other in a fresh process: exit code, both outputs, and the heavy modules so far."""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=True, cwd=folder
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, out, err, set(heavy)) for code, out, err, heavy in (lines[0] if code == TOGETHER else lines)]


def test_help_version_and_usage_errors_import_nothing_heavy(tmp_path: Path) -> None:
    helps = [["--help"], *([*verb, "--help"] for verb in VERBS)]
    assert ["ops", "list", "--help"] in helps and ["analyze", "rewards", "--help"] in helps and len(helps) >= 14
    wrong = [[], ["serach"], ["analyze"], *([*verb, "--no-such-option"] for verb in VERBS)]
    for arguments, (code, out, err, heavy) in zip(
        commands := [*helps, ["--version"], *wrong], imported(commands, tmp_path), strict=True
    ):
        assert heavy == set(), arguments
        assert code == (2 if arguments in wrong else 0), (arguments, err)
        assert ("Usage: narfx" in out) is (arguments[-1:] == ["--help"])


def test_the_help_lists_the_strategies_and_the_sources_that_are_registered(tmp_path: Path) -> None:
    (code, out, _, _) = imported([["search", "--help"]], tmp_path)[0]
    text = " ".join(out.split())
    assert code == 0
    own = [name for name in strategy_names() if not name.startswith("test-")]  # other tests register some
    assert f"{', '.join(own)} [solve where" in text
    assert all_forms() == source_forms()
    assert own_forms() and all(form in text for form in own_forms())


def check(unused: dict[str, set[str]], folder: Path, code: str) -> None:
    commands = [command.split() for command in unused]
    for (command, names), (ended, _, err, heavy) in zip(unused.items(), imported(commands, folder, code), strict=True):
        assert ended in (0, 2) and "internal" not in err, command
        assert heavy & names == set(), command


def test_a_verb_imports_only_what_it_uses(tmp_path: Path) -> None:
    no_torch = set(HEAVY) - {"numpy", "matplotlib"}
    check({f"analyze {name} no-run": no_torch for name in ("rewards", "gradients")}, tmp_path, TOGETHER)
    basic = {"torchvision", "onnx", "onnxruntime", "matplotlib", "sklearn", "scipy", "networkx"}
    unused = {
        "ops list": basic,
        "trace narfx:resnet8 --input 3,32,32": basic,
        "solve no-run --out out --budget macs<=0.8x": basic - {"networkx"},
        "search narfx:resnet8 --out out --data no-data": basic - {"sklearn", "scipy"},
        "apply no-arch.json --out out": basic - {"onnx"},
        # its images come from the same parts as a training's, as torch's tensors or from a torch Dataset
        "proxy no-data --out out --identities 3 --images 2": basic,
    }
    check(unused, tmp_path, APART)
