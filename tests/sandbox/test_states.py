"""What is on record is what was meant, and short enough for the kernel."""

from pathlib import Path

import pytest

from evenkeel_sandbox import clusters, states
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import NoSuchSandboxError
from evenkeel_sandbox.specs import TIMINGS, RealNode
from evenkeel_sandbox.states import State


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    return tmp_path


def _state(name: str = "a") -> State:
    nodes = (RealNode("worker-1", {"x": "y"}), RealNode("worker-2"))
    network = "10.231.0.0/16"
    return State(
        name, 3, "10.231.0.1", network, {"etcd": 1}, nodes, TIMINGS["fast"], {"etcd": "/e"}
    )


def test_a_state_survives_the_disk(cache: Path) -> None:
    states.write(_state())
    assert states.read("a") == _state()
    assert states.everyone() == [_state()]


def test_links_fit_into_fifteen_characters() -> None:
    assert len(State("n" * 20, 9999, "", None, {}, (), TIMINGS["fast"]).link(64)) <= 15


def test_what_is_not_there_is_said_so(cache: Path) -> None:
    assert states.read("a") is None
    with pytest.raises(NoSuchSandboxError, match="evenkeel sandbox up"):
        Cluster.open("a")
    assert not clusters.down("a")


def test_a_folder_without_a_state_goes_away(cache: Path) -> None:
    (states.folder("a") / "pki").mkdir(parents=True)
    assert clusters.names() == ["a"]
    assert clusters.down("a")
    assert clusters.names() == []


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a/b", "a" * 21, "1"])
def test_a_name_must_fit_everywhere(cache: Path, name: str) -> None:
    with pytest.raises(ValueError, match="`name`"):
        Cluster.up(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/../..", "/", "a\n", "a\0"])
def test_no_name_leads_out_of_the_folder_of_sandboxes(cache: Path, name: str) -> None:
    states.write(_state())
    (cache / "kept").touch()
    before = sorted(cache.rglob("*"))
    for reach in (clusters.down, states.read, states.folder, Cluster.open):
        with pytest.raises(ValueError, match="`name`"):
            reach(name)
    assert sorted(cache.rglob("*")) == before


@pytest.mark.parametrize("claim", ["", "..", "../../x", "a/b", "/etc"])
def test_no_claim_leads_out_of_the_sandbox(cache: Path, claim: str) -> None:
    with pytest.raises(ValueError, match="`claim`"):
        Cluster(_state()).workspace(claim)


def test_what_no_sandbox_can_be_called_is_none(cache: Path) -> None:
    """A stranger's folder among them does not stop `down --all`."""
    (states.folder("a")).mkdir(parents=True)
    (states.folder("a").parent / "not_ours").mkdir()
    assert clusters.names() == ["a"]
