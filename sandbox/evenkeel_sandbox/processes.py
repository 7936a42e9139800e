"""The processes of a sandbox: on record before they run, so that no crash loses one.

Each process writes its own line of ``/proc/PID/stat`` to a file and only then becomes the program
it is for. The line holds the pid and, in field 22, when it started: together they name one process
for ever, so a pid that was used again is never killed.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evenkeel_sandbox.failures import SandboxError

_LAUNCH = """
for group in $1; do echo $$ >"$group" || exit 1; done
read -r stat </proc/$$/stat && printf '%s\\n' "$stat" >"$0" && shift && exec "$@"
"""
_START_TIME = 22
_LAUNCHING = 3.0
"""Seconds a process may take from the fork to its record."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, this boot."""

    pid: int
    started: int
    """Clock ticks after the boot."""

    @property
    def alive(self) -> bool:
        """Tell whether it still runs; a zombie does not."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # if it is our child nobody else buries it
        try:
            line = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return parse(line) == self and _state(line) not in "ZX"


def parse(stat: str) -> Identity | None:
    """Return whom a line of /proc/PID/stat is about; the command in it may hold anything."""
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    if not head or len(fields) < _START_TIME - 2:
        return None
    return Identity(int(head.split()[0]), int(fields[_START_TIME - 3]))


def _state(stat: str) -> str:
    return stat.rpartition(")")[2].split()[0]


@dataclass(frozen=True, slots=True)
class Record:
    """All that is needed to start a process again."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log: str
    inside: str | None = None
    """Name of the process whose child's namespaces it lives in."""
    cgroups: Sequence[str] = ()
    boot: str = ""
    """The boot it was started in: after another, the pid on record means nothing."""


_FIELDS = tuple(Record.__dataclass_fields__)
"""A newer release may have written more."""


class Processes:
    """The processes of one sandbox, by name; names may have a folder: ``worker-1/kubelet``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return every name on record, dead or alive."""
        files = sorted(self._folder.rglob("*.json"))
        return [str(path.relative_to(self._folder).with_suffix("")) for path in files]

    def record(self, name: str) -> Record:
        """Return what the process was started with."""
        try:
            raw = json.loads(self._file(name, ".json").read_text())
            return Record(**{key: raw[key] for key in _FIELDS if key in raw})
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise SandboxError(f"no process {name!r} in this sandbox; there are: {known}") from None

    def start(self, name: str, record: Record) -> None:
        """Put the process on record and start it, detached from us."""
        if self.identity(name):
            raise SandboxError(f"{name} runs already")
        record = Record(**{**asdict(record), "boot": _boot()})
        path = self._file(name, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        pid_file = self._file(name, ".stat")
        pid_file.unlink(missing_ok=True)
        _write_whole(path, json.dumps(asdict(record), indent=1))
        self._spawn(pid_file, record)
        self._launched(name)
        if self._nested(name):
            _await(lambda: self.inner(name) is not None or self.identity(name) is None)

    def restart(self, name: str) -> None:
        """Kill the process if it runs and start it as it was started before."""
        record = self.record(name)
        self.kill(name)
        self.start(name, record)

    def kill(self, name: str, sig: int = signal.SIGKILL, wait: float = 10.0) -> bool:
        """Send the signal, SIGKILL after the wait; False if the process was not there."""
        identity = self.identity(name)
        if identity is None:
            return False
        inner = self.inner(name)
        targets = [identity] if inner is None else [inner, identity]
        _signal(targets[0], sig)
        if not _gone(targets, wait):
            for target in targets:
                _signal(target, signal.SIGKILL)
            _gone(targets, wait)
        return True

    def identity(self, name: str) -> Identity | None:
        """Return the recorded process if it is alive."""
        stat = self._file(name, ".stat")
        if not stat.exists() or self.record(name).boot != _boot():
            return None
        identity = parse(stat.read_text())
        return identity if identity and identity.alive else None

    def pid(self, name: str) -> int | None:
        """Return the pid of the program itself, seen from the host; None when it is dead."""
        inner = self.inner(name)
        if inner is not None:
            return inner.pid
        identity = self.identity(name)
        return identity.pid if identity and not self._nested(name) else None

    def inner(self, name: str) -> Identity | None:
        """Return the program in its namespaces, of which the recorded process is only the door."""
        identity = self.identity(name)
        if identity is None or not self._nested(name):
            return None
        return next(children(identity.pid), None)

    def settle(self) -> None:
        """Wait until a process that was being started when its starter died is on record."""
        for name in self.names():
            self._launched(name)

    def _nested(self, name: str) -> bool:
        record = self.record(name)
        return record.inside is not None or "unshare" in record.argv

    def _launched(self, name: str) -> None:
        # The shell opens the file a moment before it writes its one line.
        _await(lambda: _size(self._file(name, ".stat")) > 0)

    def _spawn(self, pid_file: Path, record: Record) -> None:
        log = Path(record.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        enter: list[str] = []
        if record.inside:
            init = self.pid(record.inside)
            if init is None:
                raise SandboxError(f"{record.inside} is not running")
            enter = ["nsenter", "-t", str(init), "-m", "-p", "-n", "--"]
        argv = ["sh", "-c", _LAUNCH, str(pid_file), " ".join(record.cgroups)]
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.posix_spawnp(
            "sh",
            [*argv, *enter, *record.argv],
            {**_environment(), **record.env},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _file(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}{suffix}"


def children(pid: int) -> Iterator[Identity]:
    """Yield the children of a process."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in listed:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            identity = parse(Path(f"/proc/{child}/stat").read_text())
            if identity:
                yield identity


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _await(done: Callable[[], bool]) -> None:
    end = time.monotonic() + _LAUNCHING
    while not done() and time.monotonic() < end:
        time.sleep(0.005)


def _environment() -> dict[str, str]:
    """Return our environment without proxies: all traffic of a sandbox stays on the machine."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def _signal(identity: Identity, sig: int) -> None:
    if identity.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, sig)


def _gone(targets: Sequence[Identity], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(target.alive for target in targets):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _write_whole(path: Path, text: str) -> None:
    """Write so that a reader sees the old text or the new, never half of it."""
    scratch = path.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(path)
