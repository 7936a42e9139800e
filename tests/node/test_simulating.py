"""The simulator takes the planned time, tells how far it is and stops when told."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from evenkeel_node import simulating


def test_progress_follows_the_clock() -> None:
    now = iter([0.0, 0.0, 2.5, 5.0, 10.0])
    lines: list[object] = []
    stopped = threading.Event()
    stopped.wait = lambda _=None: False  # type: ignore[assignment,misc]
    done = simulating.work(
        simulating.Shard(10.0, 4, 12), stopped, lines.append, clock=lambda: next(now)
    )
    assert done
    assert [line["completed"] for line in lines] == [0, 2, 4, 8]  # type: ignore[index]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, simulating.SECONDS),
        ({simulating.SECONDS: "nan"}, simulating.SECONDS),
        ({simulating.SECONDS: "-1"}, simulating.SECONDS),
        ({simulating.SECONDS: "1", simulating.REQUESTS: "7-3"}, simulating.REQUESTS),
        ({simulating.SECONDS: "1", simulating.REQUESTS: "x"}, simulating.REQUESTS),
    ],
)
def test_a_bad_environment_names_the_variable(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        simulating.read(environment)


def run(seconds: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "evenkeel_node.simulating"],
        env={**os.environ, simulating.SECONDS: seconds, simulating.REQUESTS: "0-3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_ends_with_every_request_done() -> None:
    out, _ = run("0.1").communicate(timeout=20)
    assert json.loads(out.splitlines()[-1]) == {"completed": 3, "total": 3}


def test_the_process_stops_at_once_when_told() -> None:
    process = run("600")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == simulating.TERMINATED


def test_a_bad_environment_is_one_sentence_on_stderr() -> None:
    _, err = run("soon").communicate(timeout=20)
    assert err == f"evenkeel simulator: {simulating.SECONDS} must be a number of seconds\n"
