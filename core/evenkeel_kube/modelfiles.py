"""Model files on a disk: found below one folder, read within bounds, understood by the core.

A name is a GGUF file, any part of a split one, a safetensors file with its ``config.json``
beside it, or a folder of such. Only headers are read, never weights.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evenkeel_core.facts import gguf, safetensors
from evenkeel_core.models import InvalidModel, Model

SCHEME = "file://"
CONFIG = "config.json"
MAX_CONFIG = 4 * 2**20
MAX_FILES = 1024
"""Of one model: the largest published have some 200."""

Read = Callable[[int, int], bytes]


def models(folder: Path, uris: Iterable[str]) -> dict[str, Model]:
    """Return the models of those URIs that name files, by URI.

    Raises
    ------
    InvalidModel
        If a file is not there, is outside the folder, or is not what it should be.
    """
    return {uri: model(folder, uri) for uri in uris if uri.startswith(SCHEME)}


def model(folder: Path, uri: str) -> Model:
    """Return the model a ``file://`` URI names below a folder.

    Raises
    ------
    InvalidModel
        As for `models`; the message begins with the file.
    """
    name = uri.removeprefix(SCHEME)
    try:
        files = _files(_inside(folder, name, name))
        for file in files:
            _inside(folder, str(file), file.name)
        if files[0].suffix == ".safetensors":
            return _safetensors(files, name, _config(_beside(folder, files[0])))
        return _gguf(files, name)
    except OSError as error:
        raise InvalidModel(f"{name}: can't be read: {error.strerror}") from None


def _inside(folder: Path, path: str, name: str) -> Path:
    """Return where a path leads, links followed; it must stay below the folder."""
    try:
        root = folder.resolve(strict=True)
        found = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # the last is a link to itself, until 3.13
        raise InvalidModel(f"{name}: is not in {folder}") from None
    if found == root or not found.is_relative_to(root):
        raise InvalidModel(f"{name}: leads out of {folder}")
    return root / path


def _beside(folder: Path, file: Path) -> Path:
    return _inside(folder, str(file.with_name(CONFIG)), CONFIG)


def _files(path: Path) -> list[Path]:
    """Return the files of weights of the model at a path."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".gguf"))
        kinds = {file.suffix for file in found}
        if len(kinds) != 1:
            said = "both .safetensors and .gguf" if kinds else "neither .safetensors nor .gguf"
            raise InvalidModel(f"{path.name}: has {said} files; name one")
        if kinds == {".gguf"} and [file.name for file in found] != list(gguf.parts(found[0].name)):
            raise InvalidModel(f"{path.name}: has several models; name one")
    else:
        found = [path.with_name(part) for part in gguf.parts(path.name)]
    if len(found) > MAX_FILES:
        raise InvalidModel(f"{path.name}: {len(found)} files; no model has more than {MAX_FILES}")
    return found


def _header(file: Path, understand: Callable[..., Any]) -> Any:
    """Read one header: of a plain file, for a pipe would never end."""
    try:
        if not file.is_file():
            raise InvalidModel("is not there, or no plain file")
        with file.open("rb", buffering=0) as opened:

            def read(at: int, size: int) -> bytes:
                opened.seek(at)
                return opened.read(size)

            return understand(read, size=file.stat().st_size)
    except InvalidModel as error:
        raise InvalidModel(f"{file.name}: {error}") from None


def _gguf(files: Sequence[Path], name: str) -> Model:
    headers = [_header(file, gguf.header) for file in files]
    try:
        return gguf.model(
            headers, name=name, weights=_stem(name), source=f"the GGUF header of {name}"
        )
    except InvalidModel as error:
        raise InvalidModel(f"{name}: {error}") from None


def _safetensors(files: Sequence[Path], name: str, config: Mapping[str, Any]) -> Model:
    headers = [_header(file, safetensors.header) for file in files]
    try:
        return safetensors.model(
            headers,
            config,
            name=_stem(name),
            weights=_stem(name),
            source=f"the safetensors headers and {CONFIG} of {name}",
        )
    except InvalidModel as error:
        raise InvalidModel(f"{name}: {error}") from None


def _stem(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _config(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise InvalidModel(f"{file.name}: is no plain file")
    if file.stat().st_size > MAX_CONFIG:
        raise InvalidModel(f"{file.name}: larger than {MAX_CONFIG} bytes")
    with file.open("rb") as opened:
        text = opened.read(MAX_CONFIG)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidModel(f"{file.name}: is no JSON") from None
    if not isinstance(found, dict):
        raise InvalidModel(f"{file.name}: is no JSON object")
    return found
