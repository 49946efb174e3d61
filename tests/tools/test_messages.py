"""Every sentence that narfx says to its users keeps a few rules, and the tool that lists them finds them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from checkout import ROOT
from messages import KINDS, Message, messages

from narfx.cli.app import app

MESSAGES = messages()
DIALECT = r"\b(behind|mend(s|ed|ing)?|heed\w*|for want of|lots?|whoever|wherein|thereof|anew)\b"
"""Words that a reader who is not a native speaker may not know, or knows with another meaning."""
PIP = {"--upgrade"}


def said(message: Message) -> str:
    """The text without its placeholders."""
    return re.sub(r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}", "{}", message.text)


def broken(wrong: Callable[[str], object], kinds: tuple[str, ...] = KINDS) -> list[str]:
    return [f"{m.file}:{m.line}: {m.text}" for m in MESSAGES if m.kind in kinds and wrong(said(m))]


def commands(command: Any) -> list[Any]:
    return [command, *(found for entry in getattr(command, "commands", {}).values() for found in commands(entry))]


COMMANDS = commands(typer.main.get_command(app))


def test_the_list_is_whole() -> None:
    kinds = [message.kind for message in MESSAGES]
    assert set(kinds) == set(KINDS)
    assert kinds.count("error") > 450 and kinds.count("help") > 120
    helps = [getattr(parameter, "help", None) for command in COMMANDS for parameter in command.params]
    listed = [re.escape(said(message)).replace(re.escape("{}"), ".*") for message in MESSAGES if message.kind == "help"]
    for text in {text for text in helps if text} - {"Show this message and exit."}:
        assert any(re.fullmatch(pattern, text) for pattern in listed), text


def test_a_message_is_one_line() -> None:
    """A pipeline reads standard error by lines. One message shows the lines in which two networks differ."""
    several = broken(lambda text: "\n" in text)
    assert len(several) == 1 and "this architecture was made for another model" in several[0]


def test_an_error_ends_without_a_full_stop_and_help_with_one() -> None:
    """A cure or a note may be appended to an error; help is a paragraph of sentences."""
    assert broken(lambda text: text.endswith(".") and not text.endswith("..."), ("error", "warning", "note")) == []
    assert broken(lambda text: not text.endswith("."), ("help",)) == []


def test_an_error_begins_in_lower_case() -> None:
    """It follows ``narfx: `` or another sentence, and names from code keep their case."""
    names = ("Supernet ",)
    assert broken(lambda text: text[:1].isupper() and not text.startswith(names), ("error", "warning", "note")) == []


def test_the_words_are_plain() -> None:
    assert broken(lambda text: re.search(DIALECT, text)) == []


def test_spaces_are_single_and_no_sentence_is_cut() -> None:
    assert broken(lambda text: "  " in text.strip("\n") and "\n" not in text) == []
    assert broken(lambda text: text.rstrip() != text and not text.endswith("\n"), ("error", "help")) == []


def test_a_sentence_is_short() -> None:
    """An engineer reads it in a terminal, between other lines."""
    assert broken(lambda text: len(text) > 260) == []


def test_every_option_that_a_message_names_exists() -> None:
    known = {
        name
        for command in COMMANDS
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {option for message in MESSAGES for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", said(message))}
    assert "--weights" in used
    assert used - known - PIP - {"--help"} == set()


def test_every_verb_that_a_message_names_exists() -> None:
    known = {command.name for command in COMMANDS}
    before = r"(?:with|for|by|as|\() narfx ([a-z]+)"
    used = {verb for message in MESSAGES for verb in re.findall(before, said(message))}
    assert {"apply", "train"} <= used <= known


def test_every_name_of_the_package_that_a_message_names_is_public() -> None:
    used = {name for message in MESSAGES for name in re.findall(r"\bnarfx\.([\w.]*\w)", said(message))}
    assert "trace" in used
    for name in used:
        home, _, last = f"narfx.{name}".rpartition(".")
        public = importlib.import_module(home)
        assert last in public.__all__ or importlib.import_module(f"{home}.{last}"), name
        assert home in ("narfx", "narfx.search", "narfx.passes"), name


def test_every_page_that_a_message_names_exists() -> None:
    used = {page for message in MESSAGES for page in re.findall(r"\bdocs/\w+\.md", said(message))}
    assert used and all((ROOT / page).is_file() for page in used)


CODE = """
import warnings


def _wrong(message: str) -> UsageError:
    return UsageError(message)


def read(path, reporter):
    if not path:
        raise UsageError(f"{path!r} is empty: " + ("give a name" if path else f"give {path.name}"), where="path")
    warnings.warn("an old file", stacklevel=2)
    reporter.say(f"reading {path}")
    raise _wrong("the file is damaged")
"""


def test_the_tool_lists_each_branch_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "narfx").mkdir()
    (tmp_path / "narfx" / "reading.py").write_text(CODE)
    found = [(message.line, message.kind, message.text) for message in messages(tmp_path)]
    assert found == [
        (11, "error", "{path} is empty: give a name"),
        (11, "error", "{path} is empty: give {path.name}"),
        (12, "warning", "an old file"),
        (13, "note", "reading {path}"),
        (14, "error", "the file is damaged"),
    ]


@pytest.mark.parametrize("option", [[], ["--kind", "help"], ["--json"]])
def test_the_tool_prints_the_list(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from messages import main

    assert main(option) == 0
    out = capsys.readouterr().out
    assert "narfx/cli/options.py" in out and ("narfx/errors" not in out)
