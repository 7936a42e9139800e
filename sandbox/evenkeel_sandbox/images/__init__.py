"""Container images without a registry, a builder or a network: one file a component.

An image is a `docker-archive`, which is a tar of layer tars and two JSON files; containerd imports
it. Layers are cached under a key of what goes into them, so only changed ones are made again.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evenkeel_sandbox.places import cache, locked
from evenkeel_sandbox.progress import Progress


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, made by a function that fills an empty folder."""

    name: str
    key: str
    """Changes with everything that goes into the layer."""
    fill: Callable[[Path], None]

    def tar(self) -> Path:
        """Return the layer as a tar, made if it is not in the cache."""

        def make(scratch: Path) -> None:
            root = scratch / "root"
            root.mkdir()
            self.fill(root)
            pack(root, scratch / "made")

        return _made(f"{self.name}-{self.key}.tar", f"{self.name}-*.tar", make)


@dataclass(frozen=True, slots=True)
class Component:
    """One image."""

    tag: str
    layers: Sequence[Layer]
    config: Mapping[str, object] = field(default_factory=dict)
    """``Entrypoint``, ``Cmd``, ``Env`` and the like, as in an image's configuration."""

    @property
    def key(self) -> str:
        """Return a name that changes with what is in the image."""
        parts = [
            self.tag,
            json.dumps(self.config, sort_keys=True),
            *(lay.key for lay in self.layers),
        ]
        return key(*(part.encode() for part in parts))


def archive(component: Component, progress: Progress) -> Path:
    """Return the image as a docker-archive, made if it is not in the cache."""
    name = component.tag.replace("/", "_").replace(":", "_")

    def make(scratch: Path) -> None:
        with progress.step(f"Building the image {component.tag} (once)"):
            _write_archive(scratch / "made", component)

    return _made(f"{name}-{component.key}.image.tar", f"{name}-*.image.tar", make)


def _made(name: str, older: str, make: Callable[[Path], None]) -> Path:
    """Return a file of the cache, made by one process if it is not there, and whole or not at all.

    `make` writes `made` into an empty folder. The files it follows go afterwards: every change of
    the code makes another.
    """
    folder = cache() / "images"
    target = folder / name
    if target.exists():
        return target
    with locked(folder / f"{older.partition('*')[0]}lock"):
        if target.exists():  # another process was first
            return target
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
            make(Path(scratch))
            (Path(scratch) / "made").rename(target)
        for old in folder.glob(older):
            if old != target:
                old.unlink(missing_ok=True)
    return target


def key(*parts: bytes) -> str:
    """Return a short digest of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()[:16]


def pack(root: Path, target: Path) -> None:
    """Write a folder as a tar that depends on nothing but its contents."""
    with tarfile.open(target, "w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _write_archive(target: Path, component: Component) -> None:
    with tarfile.open(target, "w") as tar:
        digests = [_add_layer(tar, layer.tar()) for layer in component.layers]
        image = {
            "architecture": "amd64",
            "os": "linux",
            "config": component.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [],
        }
        config = json.dumps(image).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        _add(tar, name, config)
        layers = [f"{digest}/layer.tar" for digest in digests]
        manifest = [{"Config": name, "RepoTags": [component.tag], "Layers": layers}]
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add_layer(tar: tarfile.TarFile, layer: Path) -> str:
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    tar.add(layer, arcname=f"{digest}/layer.tar", filter=_anonymous)
    return digest


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
