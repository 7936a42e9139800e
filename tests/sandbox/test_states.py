"""What is on record is what was meant, and short enough for the kernel."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenkeel_sandbox import clusters, places, states
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import ForeignRecordError, NoSuchSandboxError, SandboxError
from evenkeel_sandbox.processes import Processes, Record
from evenkeel_sandbox.progress import Progress
from evenkeel_sandbox.specs import TIMINGS, ClusterSpec, RealNode
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


def _rewrite(cache: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = states.folder(name) / "state.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_what_a_newer_release_wrote_beside_is_left_out(cache: Path) -> None:
    states.write(_state())
    for holder in (lambda raw: raw, lambda raw: raw["timing"], lambda raw: raw["nodes"][0]):
        _rewrite(cache, "a", lambda raw, holder=holder: holder(raw).update(novelty=1))
    assert states.read("a") == _state()


@pytest.mark.parametrize(
    "lost",
    [
        lambda raw: raw.pop("timing"),
        lambda raw: raw.pop("nodes"),
        lambda raw: raw.pop("number"),
        lambda raw: raw["timing"].pop("grace"),
        lambda raw: raw.update(timing=5),
        lambda raw: raw.clear(),
    ],
)
def test_a_record_of_another_release_stops_nobody_else_and_goes_down(
    cache: Path, lost: Callable[[dict[str, Any]], object]
) -> None:
    for name in "ab":
        states.write(_state(name))
    _rewrite(cache, "a", lost)
    with pytest.raises(ForeignRecordError, match="evenkeel sandbox down --name a"):
        Cluster.open("a")
    assert _state("b") in states.everyone()
    process = Processes(states.folder("a") / "processes")
    process.start("etcd", Record(("sleep", "60"), {}, str(cache / "log")))
    running = process.identity("etcd")
    assert running
    assert clusters.down("a")
    assert not running.alive
    assert clusters.names() == ["b"]


@pytest.mark.parametrize(("known", "lines"), [(True, 0), (False, 1)])
def test_down_says_what_it_can_not_know(cache: Path, known: bool, lines: int) -> None:
    said = []

    class Heard(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    states.write(_state())
    _rewrite(cache, "a", lambda raw: raw.pop("timing" if known else "number"))
    assert {state.name for state in states.everyone()} == ({"a"} if known else set())
    assert clusters.down("a", Heard())
    assert len(said) == lines


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


def test_a_checkout_has_names_and_sandboxes_of_its_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is shared: `make clean` and `make demo` of another checkout leave ours alone."""
    ours = places.own("demo")
    assert states.valid(ours)
    states.write(dataclasses.replace(_state("ours"), checkout=str(places.checkout())))
    states.write(_state("of-another-release"))
    assert clusters.mine() == ["ours"]
    monkeypatch.setattr(places, "__file__", str(cache / "x" / "y" / "z.py"))
    assert places.own("demo") != ours
    assert clusters.mine() == []


def test_nobody_elses_running_sandbox_is_replaced(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states.write(dataclasses.replace(_state(), checkout="/elsewhere"))
    monkeypatch.setattr(Cluster, "running", True)
    with pytest.raises(SandboxError, match="started from /elsewhere: choose another --name"):
        Cluster.fresh("a", ClusterSpec())
    assert clusters.names() == ["a"]
