"""Images depend on nothing but what is in them."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from evenkeel_sandbox import clusters, images, stores
from evenkeel_sandbox.failures import BuildError
from evenkeel_sandbox.images import Component, Layer
from evenkeel_sandbox.progress import Progress
from evenkeel_sandbox.specs import ClusterSpec, RealNode

ROOT = Path(__file__).parents[2]


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


_MAKE = """
import sys, time
from pathlib import Path
from evenkeel_sandbox import clusters, images, stores
from evenkeel_sandbox.failures import BuildError
from evenkeel_sandbox.images import Component, Layer
from evenkeel_sandbox.progress import Progress

def fill(root):
    with Path(sys.argv[1]).open("a") as file:
        file.write("made ")
    time.sleep(0.3)
    (root / "file").write_bytes(b"x" * 1_000_000)

print(images.archive(Component("localhost/x:1", (Layer("x", "k", fill),)), Progress()))
"""


def test_two_processes_at_once_make_one_archive(tmp_path: Path) -> None:
    made = tmp_path / "made"
    environment = {**os.environ, "EVENKEEL_CACHE": str(tmp_path / "cache")}
    argv = [sys.executable, "-c", _MAKE, str(made)]
    running = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert made.read_text() == "made "
    (path,) = paths
    with tarfile.open(path) as tar:
        assert "manifest.json" in tar.getnames()
    assert list((tmp_path / "cache/images").glob(".making-*")) == []


def test_what_fails_to_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    older = Component("localhost/x:1", (Layer("x", "old", _fill),))
    kept = images.archive(older, Progress())

    def fail(root: Path) -> None:
        raise BuildError("no such package")

    with pytest.raises(BuildError):
        images.archive(Component("localhost/x:1", (Layer("x", "new", fail),)), Progress())
    assert images.archive(older, Progress()) == kept
    assert kept.exists()
    assert [path for path in tmp_path.rglob("*") if "making" in path.name] == []


def test_make_images_puts_each_component_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    specification = importlib.util.spec_from_file_location("build", ROOT / "images" / "build.py")
    assert specification
    assert specification.loader
    build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build)
    assert {module.component().tag for module in build.COMPONENTS} == {
        "localhost/pause:1", "localhost/busybox:1", "localhost/evenkeel/simulator:dev",
    }  # fmt: skip
    component = Component("localhost/evenkeel/x:dev", (Layer("x", "k", _fill),))
    monkeypatch.setattr(build, "COMPONENTS", (SimpleNamespace(component=lambda: component),))
    monkeypatch.setattr(sys, "argv", ["build.py", "--output", str(tmp_path / "out")])
    assert build.main() == 0
    with tarfile.open(tmp_path / "out" / "evenkeel-x-dev.tar") as tar:
        (image,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert image["RepoTags"] == ["localhost/evenkeel/x:dev"]


@pytest.mark.parametrize(
    "error",
    [
        BuildError("`apt-get` failed:\nno such package"),
        FileNotFoundError(2, "No such file", "/usr/bin/busybox"),
        subprocess.CalledProcessError(1, "gcc"),
    ],
)
def test_where_images_can_not_be_made_nodes_are_simulated(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    said = []

    class Heard(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(stores, "_template", fail)
    spec = ClusterSpec(nodes=(RealNode("worker-1"),), evenkeel=True)
    left, template = clusters._stocked(spec, Heard())
    assert (left, template) == (ClusterSpec(evenkeel=True), None)
    (line,) = said
    assert line.startswith("Simulated nodes only, no real ones: ")
    assert "\n" not in line


def test_an_archive_replaces_those_of_older_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    for version in ("1", "2"):
        images.archive(Component("localhost/x:1", (Layer("x", version, _fill),)), Progress())
    assert len(list((tmp_path / "images").glob("*.tar"))) == 2  # one layer, one image
