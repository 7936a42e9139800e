"""Where the sandbox keeps its files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache() -> Path:
    """Return the folder of everything that can be made again."""
    named = os.environ.get("EVENKEEL_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "evenkeel"


def sandboxes() -> Path:
    """Return the folder that holds one folder a sandbox.

    It lies in the cache and not below /run because the nodes' image stores are hard links to a
    template, and those need one file system.
    """
    return cache() / "sandboxes"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file for the duration of the block; the kernel lets go if we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
