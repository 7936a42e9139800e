"""Images depend on nothing but what is in them."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from evenkeel_sandbox import images
from evenkeel_sandbox.images import Component, Layer
from evenkeel_sandbox.progress import Progress


def _fill(root: Path) -> None:
    (root / "bin").mkdir()
    (root / "bin/tool").write_text("tool")
    (root / "bin/tool").chmod(0o755)
    (root / "bin/link").symlink_to("tool")


def test_a_folder_packs_the_same_whoever_made_it_and_when(tmp_path: Path) -> None:
    for name in ("a", "b"):
        root = tmp_path / name
        root.mkdir()
        _fill(root)
        os.utime(root / "bin/tool", (1, len(name)))
        images.pack(root, tmp_path / f"{name}.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_an_archive_names_its_layers_by_their_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    made = []

    def fill(root: Path) -> None:
        made.append(root)
        _fill(root)

    component = Component("localhost/x:1", (Layer("x", "k", fill),), {"Cmd": ["tool"]})
    archive = images.archive(component, Progress())
    assert images.archive(component, Progress()) == archive
    assert len(made) == 1
    with tarfile.open(archive) as tar:
        (image,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        config = json.loads(tar.extractfile(image["Config"]).read())  # type: ignore[union-attr]
        assert image["RepoTags"] == ["localhost/x:1"]
        assert config["config"] == {"Cmd": ["tool"]}
        (digest,) = config["rootfs"]["diff_ids"]
        assert image["Layers"] == [f"{digest.removeprefix('sha256:')}/layer.tar"]


def test_an_archive_replaces_those_of_older_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    for version in ("1", "2"):
        images.archive(Component("localhost/x:1", (Layer("x", version, _fill),)), Progress())
    assert len(list((tmp_path / "images").glob("*.tar"))) == 2  # one layer, one image
