"""Image stores: filled once, then shared by every node through hard links."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from evenkeel_sandbox import images
from evenkeel_sandbox.failures import BuildError
from evenkeel_sandbox.images import busybox, pause, simulator
from evenkeel_sandbox.places import cache, locked
from evenkeel_sandbox.progress import Progress

CONFIG = Path(__file__).parent / "containerd.toml"
_DATABASES = (
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)
"""The only files that containerd changes in place; the rest is written once and may be shared."""
_IMPORT = """
set -e
mount -t tmpfs tmpfs /run/containerd
mount -t tmpfs tmpfs /var/lib/cni
mount --bind "$1" /var/lib/containerd
containerd -c "$2" -l error & daemon=$!
shift 2
tries=0
until ctr version >/dev/null 2>&1; do
  tries=$((tries + 1)); [ $tries -lt 600 ] && kill -0 $daemon; sleep 0.05
done
for image; do ctr -n k8s.io images import --no-unpack=false "$image" >/dev/null; done
kill $daemon; wait $daemon || true
"""


def template(progress: Progress) -> Path:
    """Return a containerd root that holds all images of the sandbox.

    Raises
    ------
    BuildError
        If the images can't be made on this machine.
    """
    try:
        return _template(progress)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"the images can't be made: {error}") from error


def _template(progress: Progress) -> Path:
    components = [pause.component(), busybox.component(), simulator.component()]
    name = images.key(*(component.key.encode() for component in components))
    folder = cache() / "templates"
    with locked(folder / "lock"):
        if not (folder / name).exists():
            archives = [images.archive(component, progress) for component in components]
            with progress.step("Unpacking the images (once)"):
                _fill(folder, name, archives)
    return folder / name


def _fill(folder: Path, name: str, archives: list[Path]) -> None:
    prepare_mount_points()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        words = ["sh", "-c", _IMPORT, "import", str(root), str(CONFIG), *map(str, archives)]
        namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        done = subprocess.run(
            ["unshare", *namespaces, "--", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError(f"importing images into containerd failed: {done.stderr.strip()}")
        for old in folder.glob("[!.l]*"):  # images of another version of the code
            shutil.rmtree(old)
        root.rename(folder / name)


def clone(source: Path, target: Path) -> None:
    """Make a node's own root from the template in a moment and next to no space."""
    subprocess.run(["cp", "-al", str(source), str(target)], check=True)
    for name in _DATABASES:
        copy = ["cp", "--remove-destination", str(source / name), str(target / name)]
        subprocess.run(copy, check=True)


MOUNT_POINTS = (
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
"""Where a node of its own would keep its files; each node mounts its own over them."""


def prepare_mount_points() -> None:
    """Make the folders to mount over; on the host they stay empty."""
    for point in MOUNT_POINTS:
        Path(point).mkdir(parents=True, exist_ok=True)
