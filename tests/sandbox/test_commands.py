"""The command line says what it does and never shows a traceback."""

import contextlib
import http.client
import json
import os
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evenkeel_sandbox import controlplane, machines, states
from evenkeel_sandbox.commands import app
from evenkeel_sandbox.states import State

run = CliRunner().invoke


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["logs", "etcd"],
        ["kubeconfig"],
        ["exec", "--", "true"],
        ["up", "--config", "nowhere.yaml"],
        ["up", "--servers", "nowhere.yaml"],
        ["up", "--name", "Not/Good", "--no-real"],
    ],
)
def test_what_cannot_be_done_is_one_line(cache: None, words: list[str]) -> None:
    result = run(app, words)
    assert result.exit_code == 2
    assert result.output.startswith("evenkeel: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["[process]", "[/x]", "[red]"])
def test_brackets_in_what_is_said_are_no_markup(cache: None, name: str) -> None:
    for words in (["up", "--config", f"{name}.yaml"], ["up", "--servers", f"{name}.yaml"]):
        result = run(app, words)
        assert result.exit_code == 2
        assert f"{name}.yaml" in result.output


def test_the_remedy_names_the_sandbox_that_was_asked_for(cache: None) -> None:
    said = " ".join(run(app, ["status", "--name", "mine"]).output.split())
    assert "`evenkeel sandbox up --name mine`" in said
    said = " ".join(run(app, ["status"]).output.split())
    assert "`evenkeel sandbox up`" in said


def test_down_of_nothing_is_fine(cache: None) -> None:
    assert run(app, ["down"]).exit_code == 0
    assert run(app, ["down", "--all"]).exit_code == 0
    assert run(app, ["down", "--mine"]).exit_code == 0
    said = json.loads(run(app, ["down", "--name", "none", "--output", "json"]).stdout)
    assert said == {"removed": [], "absent": ["none"]}


def _soon(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Tell whether it becomes true: the kernel takes its time to bury a killed process."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _store_is_shut(state: State | None) -> None:
    """Nobody reads the store without a certificate of its own authority."""
    assert state
    pki = states.folder(state.name) / "pki"
    for member in ("etcd", "etcd-peer"):
        context = ssl.create_default_context(cafile=pki / controlplane.STORE / "ca.crt")
        for stranger in (None, "admin"):
            if stranger:
                context.load_cert_chain(pki / f"{stranger}.crt", pki / f"{stranger}.key")
            port = state.ports[member]
            talk = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
            with contextlib.closing(talk), pytest.raises(ssl.SSLError):
                _version(talk)


def _version(talk: http.client.HTTPSConnection) -> None:
    talk.request("GET", "/version")
    talk.getresponse()


@pytest.mark.sandbox
def test_from_up_to_down_without_root(
    monkeypatch: pytest.MonkeyPatch, sandbox_name: Callable[[str], str]
) -> None:
    monkeypatch.setattr(machines, "obstacle", lambda: "they need root")
    name = ["--name", sandbox_name("c")]
    up = run(app, ["up", *name, "--simulated", "3", "--output", "json"])
    assert up.exit_code == 0, up.output
    assert "Simulated nodes only" in up.stderr
    summary = json.loads(up.stdout)
    assert [node["kind"] for node in summary["nodes"]] == ["simulated"] * 3
    assert all(process["pid"] for process in summary["processes"])
    _store_is_shut(states.read(name[1]))
    again = run(app, ["up", *name])
    assert "up already" in again.stderr
    config = Path(run(app, ["kubeconfig", *name]).stdout.strip())
    assert config.is_file()
    assert run(app, ["logs", *name, "etcd"]).exit_code == 0
    said = json.loads(run(app, ["logs", *name, "etcd", "--tail", "2", "-o", "json"]).stdout)
    assert (said["process"], len(said["lines"]) <= 2) == ("etcd", True)
    assert run(app, ["logs", *name, "etcd", "-f", "-o", "json"]).exit_code == 2
    said = json.loads(run(app, ["kubeconfig", *name, "-o", "json"]).stdout)
    assert said == {"name": name[1], "kubeconfig": str(config)}
    said = json.loads(run(app, ["volume", *name, "kept", "-o", "json"]).stdout)
    assert (said["claim"], Path(said["folder"]).is_dir()) == ("kept", True)
    assert "no process 'x'" in run(app, ["logs", *name, "x"]).output
    assert "etcd" in run(app, ["status", *name]).stdout
    pids = {process["name"]: process["pid"] for process in summary["processes"]}
    os.kill(pids["kube-apiserver"], signal.SIGKILL)
    broken = run(app, ["status", *name])  # at once: it may be dead already, or just dying
    assert broken.exit_code == 0
    assert "The nodes are not known" in broken.stdout
    assert _soon(lambda: "dead" in run(app, ["status", *name]).stdout)
    gone = json.loads(run(app, ["down", *name, "--output", "json"]).stdout)
    assert gone == {"removed": [name[1]], "absent": []}
    assert not config.exists()
