"""Files that users name: read, with errors that say which file, what is wrong and what to do."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel_cli.failing import Failure

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
            raise Failure(f"{path}: larger than {MAX_BYTES} bytes; no manifest is")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failure(f"{path}: is no text in UTF-8") from None


def job_file(path: Path) -> JobFile:
    """Return the one InferenceJob of a file and what stands beside it."""
    from evenkeel_kube import documents as kube_documents

    try:
        documents = kube_documents.load(text(path))
    except kube_documents.InvalidYaml as error:
        raise Failure(f"{path}: {error}") from None
    found = [item for item in documents if _kind(item) == "InferenceJob"]
    if len(found) != 1:
        kinds = ", ".join(_kind(item) or "something else" for item in documents) or "nothing"
        raise Failure(f"{path}: must have exactly one InferenceJob, has {kinds}")
    return JobFile(
        found[0], dict(_config_map(path, i) for i in documents if _kind(i) == CONFIG_MAP)
    )


CONFIG_MAP = "ConfigMap"


def _config_map(path: Path, document: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    metadata, data = document.get("metadata"), document.get("data") or {}
    if not isinstance(metadata, Mapping) or not metadata.get("name"):
        raise Failure(f"{path}: a ConfigMap without metadata.name; give it one")
    if not isinstance(data, Mapping):
        raise Failure(f"{path}: ConfigMap {metadata['name']}: data must be a mapping")
    return str(metadata["name"]), data


def _kind(document: Any) -> str:
    return str(document.get("kind", "")) if isinstance(document, Mapping) else ""
