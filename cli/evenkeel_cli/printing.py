"""What all commands print alike: formats, tables, JSON."""

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Output(StrEnum):
    """How the answer is printed."""

    table = "table"
    json = "json"


Format = Annotated[Output, typer.Option("--output", "-o", help="Print a table or JSON.")]

RIGHT = frozenset({"start s", "predicted s", "actual s", "busy s", "end s", "regret", "n", "age"})
"""Columns of numbers."""
WIDTH = 160
"""Columns of output that is no terminal: wide enough that nothing is cut."""


def console() -> "Console":
    """Return the console; output that is piped gets neither colours nor a narrow width.

    What is printed holds names and messages of others: brackets in them are no markup.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> "Table":
    """Return a plain table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(
        box=box.SIMPLE_HEAD,
        title=Text(title, no_wrap=True) if title else None,
        title_justify="left",
        pad_edge=False,
    )
    for column in columns:
        numeric = column in RIGHT
        found.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        found.add_row(*(Text(cell) for cell in row))
    return found


def write_json(document: Any) -> None:
    """Print a document as JSON; NaN and infinity would be none and are refused."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def seconds(value: float | None) -> str:
    """Return seconds for a table."""
    return "-" if value is None else f"{value:.1f}"


def span(bounds: Sequence[int] | None) -> str:
    """Return a range of numbers as people count it: first to last."""
    if not bounds:
        return ""
    first, end = bounds
    return str(first) if end - first == 1 else f"{first}-{end - 1}"
