"""YAML that people wrote: read within bounds, errors in one sentence."""

from typing import Any

import yaml

MAX_VALUES = 2_000_000
"""Values of one file with every alias written out: what a small file may grow to is bounded."""
MAX_DEPTH = 64

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class InvalidYaml(ValueError):
    """A text that is no YAML, or more of it than anybody means."""


def load(text: str) -> list[Any]:
    """Return the documents of a YAML text, empty ones left out.

    Raises
    ------
    InvalidYaml
        If it is none; if it is nested too deep; if its aliases repeat each other without end or
        far too often.
    """
    try:
        _bounded_depth(text)
        found = [item for item in yaml.load_all(text, _Loader) if item is not None]
    except yaml.YAMLError as error:
        raise InvalidYaml(f"is no YAML: {_problem(error)}") from None
    except InvalidYaml:
        raise
    except ValueError as error:  # a date such as 2024-13-01
        raise InvalidYaml(f"is no YAML: {error}") from None
    sizes: dict[int, int] = {}
    if sum(_size(item, sizes) for item in found) > MAX_VALUES:
        raise InvalidYaml(f"has more than {MAX_VALUES} values with its aliases written out; cut it")
    return found


def _bounded_depth(text: str) -> None:
    """Refuse what would exhaust the stack of the recursive loader: events come one by one."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InvalidYaml(f"is nested deeper than {MAX_DEPTH} levels; no manifest is")


def _size(value: Any, sizes: dict[int, int]) -> int:
    """Return how many values there are with aliases written out; each is looked at once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = MAX_VALUES + 1  # met again below itself, it would have no end
        parts = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(value)]


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{said} in line {mark.line + 1}" if mark else str(said)
