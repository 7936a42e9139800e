"""Runs the command line in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evenkeel_cli import main


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    error: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `evenkeel` with arguments and return what it said."""

    def call(*arguments: str | Path) -> Answer:
        with pytest.raises(SystemExit) as left:
            main.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Answer(int(left.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def examples() -> Path:
    """Return the folder of the examples."""
    return Path(__file__).parents[2] / "examples"
