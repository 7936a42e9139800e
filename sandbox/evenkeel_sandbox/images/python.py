"""The layer every component in Python stands on: Debian's own Python, without installing Debian.

The packages are unpacked, not installed, so nothing of the host changes and no chroot is needed.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from evenkeel_sandbox.failures import BuildError
from evenkeel_sandbox.images import Layer, key

VERSION = "3.11"
"""Debian 12's."""
PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "libssl3", "zlib1g", "libexpat1", "libffi8"),
    *("libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libcrypt1", "libtinfo6"),
    *("libncursesw6", "libreadline8", "libnsl2", "libtirpc3", "tzdata", "media-types"),
    *(f"python{VERSION}-minimal", f"libpython{VERSION}-minimal", f"libpython{VERSION}-stdlib"),
    *("busybox-static", "ca-certificates"),
)
MODULES = f"usr/local/lib/python{VERSION}/dist-packages"
"""Where code layers put packages."""
_UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"),
    *(f"usr/lib/python{VERSION}/{name}" for name in ("test", "idlelib", "lib2to3")),
)


def layer() -> Layer:
    """Return the layer."""
    return Layer("python", key("\n".join(PACKAGES).encode(), Path(__file__).read_bytes()), _fill)


def _fill(root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _run(["apt-get", "-qq", "download", *PACKAGES], folder)
        for package in sorted(Path(folder).glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(root)], folder)
    _merge_usr(root)
    for unused in _UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)
    for name in ("python3", "python"):
        (root / "usr/bin" / name).symlink_to(f"python{VERSION}")
    _link_applets(root / "usr/bin")
    _configure(root)


def _run(argv: list[str], folder: str) -> None:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"`{' '.join(argv[:3])} ...` failed (the Python image is made from the packages of"
            f" Debian 12, which apt must know): {done.stderr.strip()}"
        )


def _merge_usr(root: Path) -> None:
    """Make /bin and the like links into /usr, as the packages expect to find them."""
    for name in ("bin", "sbin", "lib", "lib64"):
        old, new = root / name, root / "usr" / name
        new.mkdir(parents=True, exist_ok=True)
        if old.is_dir():
            # `cp` merges folders and keeps links; nothing in the standard library does both.
            subprocess.run(["cp", "-a", f"{old}/.", str(new)], check=True)
            shutil.rmtree(old)
        old.symlink_to(f"usr/{name}")


def _link_applets(folder: Path) -> None:
    busybox = folder / "busybox"
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if not (folder / name).exists():
            (folder / name).symlink_to("busybox")


def _configure(root: Path) -> None:
    for name in ("proc", "sys", "dev", "run", "root", "etc/ssl/certs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
        "etc/nsswitch.conf": "hosts: files dns\n",
        "etc/ssl/certs/ca-certificates.crt": "".join(
            path.read_text()
            for path in sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
        ),
    }
    for name, text in files.items():
        (root / name).write_text(text)
