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
        target = cache() / "images" / f"{self.name}-{self.key}.tar"
        if not target.exists():
            with (
                locked(target.parent / f"{self.name}.lock"),
                tempfile.TemporaryDirectory(dir=target.parent, prefix=".layer-") as scratch,
            ):
                root = Path(scratch) / "root"
                root.mkdir()
                self.fill(root)
                packed = Path(scratch) / "layer.tar"
                pack(root, packed)
                _replace(packed, target, f"{self.name}-*.tar")
        return target


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
    target = cache() / "images" / f"{name}-{component.key}.image.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with progress.step(f"Building the image {component.tag} (once)"):
            scratch = target.with_suffix(".new")
            _write_archive(scratch, component)
            _replace(scratch, target, f"{name}-*.image.tar")
    return target


def _replace(made: Path, target: Path, older: str) -> None:
    """Put a file in place of those it follows: every change of the code makes another."""
    for old in target.parent.glob(older):
        old.unlink(missing_ok=True)
    made.rename(target)


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
