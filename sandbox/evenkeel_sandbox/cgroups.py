"""Control groups of the nodes: what limits their pods and what stops a whole node in its tracks."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from evenkeel_sandbox.failures import NotReadyError

_ROOT = Path("/sys/fs/cgroup")
_PATIENCE = 10.0
_DAEMONS = "system"


def _unified() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _hierarchies() -> Iterator[Path]:
    """Yield the root of every hierarchy; links to combined controllers are left out."""
    if _unified():
        yield _ROOT
        return
    for path in sorted(_ROOT.iterdir()):
        if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists():
            yield path


def create(name: str) -> None:
    """Make a node's groups."""
    for root in _hierarchies():
        group = root / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # In version 1 a new cpuset is empty and takes no process.
            if not _unified() and (root / setting).exists():
                (group / setting).write_text((root / setting).read_text())
    if _unified():
        (_ROOT / name / _DAEMONS).mkdir(exist_ok=True)
        for group in (_ROOT, _ROOT / name):
            controllers = (group / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{controller}" for controller in controllers)
            (group / "cgroup.subtree_control").write_text(wanted)


def daemons(name: str) -> list[str]:
    """Return the files a daemon of the node writes its pid to, so that it freezes with it."""
    if _unified():
        return [str(_ROOT / name / _DAEMONS / "cgroup.procs")]
    return [str(_ROOT / "freezer" / name / "cgroup.procs")]


def freeze(name: str) -> None:
    """Stop every process of the node, pods included, as a hung machine would."""
    if _unified():
        (_ROOT / name / "cgroup.freeze").write_text("1")
        return
    state = _ROOT / "freezer" / name / "freezer.state"
    state.write_text("FROZEN")
    end = time.monotonic() + _PATIENCE
    while state.read_text().strip() != "FROZEN":
        if time.monotonic() > end:
            raise NotReadyError(f"{name} does not freeze")
        time.sleep(0.01)


def thaw(name: str) -> None:
    """Let the node go on; nothing happens to one that was not frozen or is not there."""
    with contextlib.suppress(FileNotFoundError):
        if _unified():
            (_ROOT / name / "cgroup.freeze").write_text("0")
        else:
            (_ROOT / "freezer" / name / "freezer.state").write_text("THAWED")


def remove(name: str) -> None:
    """Remove the node's groups, whose processes must be dead; the kernel may need a moment."""
    end = time.monotonic() + _PATIENCE
    left = [root / name for root in _hierarchies() if (root / name).exists()]
    while left and time.monotonic() < end:
        for group in left:
            _remove_tree(group)
        left = [group for group in left if group.exists()]
        if left:
            time.sleep(0.05)
    if left:
        raise NotReadyError(f"control groups are still in use: {', '.join(map(str, left))}")


def _remove_tree(group: Path) -> None:
    folders = [path for path in group.rglob("*") if path.is_dir()]
    for path in sorted([group, *folders], reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
