"""Programs are taken only at the pinned version, and their absence is explained."""

import dataclasses
from pathlib import Path

import pytest

from evenkeel_sandbox import binaries
from evenkeel_sandbox.failures import BuildError
from evenkeel_sandbox.progress import Progress


def _program(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("kube-apiserver", binaries.KUBERNETES, f"Kubernetes {binaries.KUBERNETES}"),
        ("kubectl", binaries.KUBERNETES, f"Client Version: {binaries.KUBERNETES}"),
        ("etcd", binaries.ETCD, f"etcd Version: {binaries.ETCD}"),
        ("kwok", binaries.KWOK, f"kwok v{binaries.KWOK} go1.26 (linux/amd64)"),
    ],
)
def test_the_right_version_is_taken(assets: Path, name: str, version: str, says: str) -> None:
    path = _program(assets, name, says)
    assert binaries._given(name, version) == path


def test_another_version_is_not(assets: Path) -> None:
    _program(assets, "etcd", f"etcd Version: {binaries.ETCD}1")
    assert binaries._given("etcd", binaries.ETCD) is None


def test_without_go_the_message_says_what_to_do(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin-of-nobody")
    with pytest.raises(BuildError, match=r"`go` is missing.*KUBEBUILDER_ASSETS"):
        binaries.ensure(Progress())


def test_the_key_follows_the_flags_and_the_sources() -> None:
    module = binaries.ALL[0]
    other = dataclasses.replace(module, ldflags="-s")
    assert binaries._key(module) == binaries._key(module) != binaries._key(other)


def test_every_module_is_pinned() -> None:
    for module in binaries.ALL:
        folder = binaries.MODULES / module.folder
        assert module.version.lstrip("v") in (folder / "go.mod").read_text()
        assert (folder / "go.sum").stat().st_size > 0
