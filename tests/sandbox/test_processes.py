"""Processes are on record before they run and never mistaken for others."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel_sandbox import processes
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.processes import Identity, Processes, Record


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "processes")
    yield made
    for name in made.names():
        made.kill(name)


def _sleep(tmp_path: Path, seconds: str = "60") -> Record:
    return Record(["sleep", seconds], {}, str(tmp_path / "log"))


def _eventually(what: object) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def test_the_record_names_the_program_and_not_its_starter(own: Processes, tmp_path: Path) -> None:
    own.start("a", _sleep(tmp_path))
    pid = own.pid("a")
    assert _eventually(lambda: b"sleep\x0060" in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert os.getsid(pid or 0) == pid  # it outlives the terminal of whoever started it


def test_killed_is_dead_and_restarted_is_another(own: Processes, tmp_path: Path) -> None:
    own.start("node/a", _sleep(tmp_path))
    before = own.identity("node/a")
    assert own.kill("node/a")
    assert own.pid("node/a") is None
    assert not own.kill("node/a")
    own.restart("node/a")
    assert own.names() == ["node/a"]
    assert own.identity("node/a") not in (None, before)


def test_one_that_ignores_sigterm_is_killed(own: Processes, tmp_path: Path) -> None:
    stubborn = Record(
        ["sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"], {}, str(tmp_path / "l")
    )
    own.start("a", stubborn)
    time.sleep(0.1)
    assert own.kill("a", signal.SIGTERM, wait=0.2)
    assert own.identity("a") is None


def test_a_pid_used_again_is_left_alone(own: Processes, tmp_path: Path) -> None:
    own.start("a", _sleep(tmp_path))
    own.start("victim", _sleep(tmp_path))
    stat = Path(f"/proc/{own.pid('victim')}/stat").read_text()
    start = processes.parse(stat)
    assert start
    own.kill("a")
    # As if the kernel had given the number of `a` to a stranger that started later.
    stale = stat.replace(f" {start.started} ", f" {start.started - 1} ")
    (tmp_path / "processes/a.stat").write_text(stale)
    assert own.identity("a") is None
    assert not own.kill("a")
    assert own.pid("victim") == start.pid


def test_a_record_of_another_boot_means_nothing(own: Processes, tmp_path: Path) -> None:
    own.start("a", _sleep(tmp_path))
    path = tmp_path / "processes/a.json"
    text = path.read_text()
    path.write_text(text.replace(own.record("a").boot, "another"))
    assert own.identity("a") is None
    path.write_text(text)
    assert own.identity("a")


def test_a_record_without_a_process_is_dead(own: Processes, tmp_path: Path) -> None:
    own.start("a", _sleep(tmp_path))
    own.kill("a")
    (tmp_path / "processes/a.stat").unlink()
    own.settle()
    assert own.pid("a") is None


def test_an_unknown_name_lists_the_known(own: Processes, tmp_path: Path) -> None:
    own.start("etcd", _sleep(tmp_path))
    with pytest.raises(SandboxError, match=r"'etdc'.*etcd"):
        own.record("etdc")


def test_a_second_start_is_refused(own: Processes, tmp_path: Path) -> None:
    own.start("a", _sleep(tmp_path))
    with pytest.raises(SandboxError, match="runs already"):
        own.start("a", _sleep(tmp_path))


def test_a_command_may_hold_anything() -> None:
    tail = " ".join(["S", *(str(number) for number in range(4, 53))])
    assert processes.parse(f"77 (a) b) c) {tail}") == Identity(77, 22)
    assert processes.parse("") is None


def test_a_process_is_not_dead_while_its_record_is_being_written(
    own: Processes, tmp_path: Path
) -> None:
    """The shell opens the file first: whoever reads it then must not take it for empty."""
    own.start("a", _sleep(tmp_path))
    stat = next(tmp_path.rglob("a.stat"))
    written = stat.read_text()
    stat.write_text("")
    writer = threading.Timer(0.2, stat.write_text, (written,))
    writer.start()
    own.settle()
    assert own.identity("a") is not None
    writer.join()
