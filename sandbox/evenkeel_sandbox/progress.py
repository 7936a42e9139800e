"""Tells the person who waits what is going on; silent by default."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Step(Protocol):
    """One thing that takes its time."""

    def advance(self, share: float) -> None:
        """Say which share of it (0 to 1) is done."""


class Progress:
    """Says nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:  # noqa: ARG002 - what overriders show
        """Enclose one step; steps may overlap, from several threads."""
        yield _Nothing()

    def say(self, line: str) -> None:
        """Tell something that is worth a line."""


class _Nothing:
    def advance(self, share: float) -> None:
        pass


def shown(console: Console) -> Progress:
    """Return bars for a terminal, lines for a log."""
    return Terminal(console) if console.is_terminal else Lines(console)


class Lines(Progress):
    """Writes a line when a step begins, at each tenth of it, and when it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Write how the step goes on."""
        began = time.monotonic()
        self.say(title)
        yield _Tenths(self, title)
        self.say(f"{title}: done in {time.monotonic() - began:.1f} s")

    def say(self, line: str) -> None:
        """Write the line, whole, whatever the width of what reads it."""
        self._console.print(line, soft_wrap=True, markup=False)


class _Tenths:
    def __init__(self, lines: Lines, title: str) -> None:
        self._lines = lines
        self._title = title
        self._told = 0

    def advance(self, share: float) -> None:
        tenth = min(int(share * 10), 9)
        if tenth > self._told:
            self._told = tenth
            self._lines.say(f"{self._title}: {10 * tenth} %")


class Terminal(Progress):
    """Shows a bar a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._running = 0
        self._bars = self._fresh()

    def _fresh(self) -> Bars:
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
        )
        return Bars(*columns, console=self._console)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show the step while it runs and how long it took."""
        # A terminal has one live display: overlapping steps share it.
        with self._lock:
            if not self._running:
                self._bars = self._fresh()
                self._bars.start()
            self._running += 1
            task = self._bars.add_task(title, total=1.0)
        done = False
        try:
            yield _Bar(self._bars, task)
            done = True
        finally:
            with self._lock:
                if done:
                    self._bars.update(task, completed=1.0)
                self._running -= 1
                if not self._running:
                    self._bars.stop()

    def say(self, line: str) -> None:
        """Print the line."""
        self._console.print(line, markup=False)


class _Bar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, share: float) -> None:
        self._bars.update(self._task, completed=min(share, 0.99))
