"""Small parts of messages."""

from __future__ import annotations

import pytest

from narfx.runs.progress import ConsoleProgress
from narfx.support.text import first_line, printable


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n one \ntwo"), "one "),
        (ValueError(), "ValueError"),
        (RuntimeError("  \n"), "RuntimeError"),
        (ValueError("x" * 300), "x" * 300),
        (ValueError("x" * 1000), f"{'x' * 300} ..."),
        (ValueError("words, " * 100), f"{'words, ' * 41}words ..."),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    """It is one line, never empty, and never longer than a message can hold."""
    assert first_line(error) == line


def test_what_a_table_shows_and_what_is_said_are_single_lines(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2J\nnarfx: all is well\u202e" + "x" * 10**6
    shown = printable({"weights": evil, "notes": [evil], "verdict": "one\ntwo\x1b"})
    assert shown["verdict"] == "one\ntwo\\x1b"
    ConsoleProgress().say(evil)
    said = capsys.readouterr().err
    for text in (shown["weights"], *shown["notes"], *printable({evil: 1}), said.removesuffix("\n")):
        assert len(text) < 3000 and not set("\x1b\n\u202e") & set(text), ascii(text)
