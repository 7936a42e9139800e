"""What the demo does where it can't do all, and that it shows today's results."""

import sys
from pathlib import Path
from typing import Any

import pytest

from evenkeel_sandbox import chaos, clusters, demo, states
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import SandboxError


def test_without_real_nodes_the_rest_is_run() -> None:
    assert demo.possible(demo.EXAMPLES, real=True) == demo.EXAMPLES
    assert demo.possible(demo.EXAMPLES, real=False) == ("llama-8b-batch", "llama-70b-pipeline")


@pytest.mark.parametrize("program", [demo, chaos])
def test_what_the_sandbox_can_not_do_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: Any
) -> None:
    def fail(*_: object) -> None:
        raise SandboxError("no [go] here")

    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(Cluster, "fresh", fail)
    assert program.main() == 2
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"{program.__name__.rpartition('.')[2]}: no [go] here"


def test_what_a_kept_demo_left_is_not_shown_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sandbox of that name goes before the next comes up."""
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    (states.folder("kept") / "volumes").mkdir(parents=True)
    found = []

    def up(name: str, *_: object) -> None:
        found.append((name, clusters.names()))

    monkeypatch.setattr(Cluster, "up", up)
    Cluster.fresh("kept", clusters.ClusterSpec())
    assert found == [("kept", [])]
