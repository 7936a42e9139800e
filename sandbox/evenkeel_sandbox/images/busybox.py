"""`localhost/busybox:1`: a shell and the usual small tools, from the host's static busybox."""

import shutil
import subprocess
from pathlib import Path

from evenkeel_sandbox.images import Component, Layer, key

_BUSYBOX = Path("/usr/bin/busybox")


def _fill(root: Path) -> None:
    folder = root / "bin"
    folder.mkdir()
    shutil.copy(_BUSYBOX, folder / "busybox")
    applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for name in applets.stdout.split():
        if name != "busybox":
            (folder / name).symlink_to("busybox")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def component() -> Component:
    """Return the image."""
    layer = Layer("busybox", key(_BUSYBOX.read_bytes()), _fill)
    return Component("localhost/busybox:1", (layer,), {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
