"""The process: started wrongly, started well, told to stop."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evenkeel_extender import __main__ as program

EMPTY = json.dumps({"metadata": {"resourceVersion": "1"}, "items": []}).encode()


class Empty(BaseHTTPRequestHandler):
    """An API server without objects; its watches stay silent."""

    stopped = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if "watch=true" in self.path:
            self.stopped.wait(30)
        else:
            self.wfile.write(EMPTY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    Empty.stopped.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                "clusters": [
                    {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
                ],
                "users": [{"name": "c", "user": {}}],
            }
        )
    )
    yield file
    Empty.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_it_is_told_to_stop(kubeconfig: Path, number: signal.Signals) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "evenkeel_extender", "--kubeconfig", str(kubeconfig)]
    with subprocess.Popen([*argv, "--port", str(port)], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 20
        while not answers(port):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert b"Traceback" not in said


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_kubeconfig_that_is_not_there_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--kubeconfig", str(tmp_path / "none")]) == program.USAGE
    said = capsys.readouterr().err
    assert said.startswith("evenkeel extender: ")
    assert "can't be read" in said


def test_broken_watches_end_the_process(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(program.Watches, "run", breaks)
    port = str(free_port())
    assert program.main(["--kubeconfig", str(kubeconfig), "--port", port]) == program.FAILED
