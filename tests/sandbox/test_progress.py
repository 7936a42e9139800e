"""What a person who waits is told."""

import io

import pytest
from rich.console import Console

from evenkeel_sandbox.progress import Lines, Terminal, shown


def test_a_log_gets_a_line_a_tenth() -> None:
    said = io.StringIO()
    with shown(Console(file=said)).step("Building") as step:
        for count in range(1, 101):
            step.advance(count / 100)
    lines = said.getvalue().splitlines()
    assert lines[:-1] == ["Building", *(f"Building: {tenth}0 %" for tenth in range(1, 10))]
    assert lines[-1].startswith("Building: done in ")


def test_what_fails_is_not_said_to_be_done() -> None:
    said = io.StringIO()
    with pytest.raises(ValueError, match="no"), Lines(Console(file=said)).step("Building"):
        raise ValueError("no")
    assert said.getvalue() == "Building\n"


def test_a_terminal_gets_bars() -> None:
    assert isinstance(shown(Console(force_terminal=True)), Terminal)


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_are_no_markup(*, terminal: bool) -> None:
    said = io.StringIO()
    progress = shown(Console(file=said, force_terminal=terminal, color_system=None))
    progress.say("see [/x]")
    with progress.step("Building [process]"):
        pass
    assert "see [/x]" in said.getvalue()
    assert "Building [process]" in said.getvalue()
