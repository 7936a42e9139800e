"""Files that users name: read, with errors that say which file, what is wrong and what to do."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel_cli.failing import FAILED, USAGE, Failure

MAX_BYTES = 64 * 1024**2
"""Of one file: far more than an API server would take."""


@dataclass(frozen=True, slots=True)
class JobFile:
    """The InferenceJob of a file, and the ConfigMaps beside it by name."""

    job: Mapping[str, Any]
    config_maps: Mapping[str, Mapping[str, Any]]


def text(path: Path) -> str:
    """Return a file's text; ``-`` is standard input."""
    try:
        if str(path) == "-":
            return sys.stdin.read(MAX_BYTES)
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise Failure(f"{path}: larger than {MAX_BYTES} bytes; no manifest is", USAGE)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: can't be read: {error.strerror}", FAILED) from None
    except UnicodeDecodeError:
        raise Failure(f"{path}: is no text in UTF-8", USAGE) from None


def job_file(path: Path) -> JobFile:
    """Return the one InferenceJob of a file and what stands beside it."""
    import yaml

    content = text(path)
    try:
        documents = [item for item in yaml.safe_load_all(content) if item is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or error
        raise Failure(f"{path}: is no YAML: {said}{where}", USAGE) from None
    found = [item for item in documents if _kind(item) == "InferenceJob"]
    if len(found) != 1:
        kinds = ", ".join(_kind(item) or "something else" for item in documents) or "nothing"
        raise Failure(f"{path}: must have exactly one InferenceJob, has {kinds}", USAGE)
    maps = {
        str((item.get("metadata") or {}).get("name")): item.get("data") or {}
        for item in documents
        if _kind(item) == "ConfigMap"
    }
    return JobFile(found[0], maps)


def _kind(document: Any) -> str:
    return str(document.get("kind", "")) if isinstance(document, Mapping) else ""
