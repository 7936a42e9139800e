"""Where the sandbox keeps its files."""

import fcntl
import hashlib
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


def checkout() -> Path:
    """Return the source tree we run from."""
    return Path(__file__).resolve().parents[2]


def own(name: str) -> str:
    """Return a sandbox's name that no other source tree uses: all of them share one cache."""
    return f"{name}-{hashlib.sha256(str(checkout()).encode()).hexdigest()[:6]}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file for the duration of the block; the kernel lets go if we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
