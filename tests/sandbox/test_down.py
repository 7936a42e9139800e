"""`down` leaves nothing behind, whatever became of the sandbox before."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evenkeel_sandbox import clusters, states
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.simulated import rack
from evenkeel_sandbox.specs import ClusterSpec

pytestmark = pytest.mark.sandbox

Leftovers = Callable[[states.State], dict[str, object]]
Name = Callable[[str], str]

_UP = """
import sys
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.simulated import rack
from evenkeel_sandbox.specs import ClusterSpec, RealNode
Cluster.up(sys.argv[1], ClusterSpec((RealNode("worker-1"), RealNode("worker-2"))))
"""


def test_after_kill_9_of_everything_and_a_frozen_node(
    real_spec: ClusterSpec, sandbox_name: Name, leftovers: Leftovers
) -> None:
    cluster = Cluster.up(sandbox_name("k"), real_spec)
    cluster.kubectl("run", "pod", "--image=localhost/busybox:1", "--", "sleep", "600")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/pod", "--timeout=30s")
    assert {"processes", "namespaces", "links", "routes", "groups", "files"} <= set(
        leftovers(cluster.state)
    )
    cluster.freeze("worker-2")
    for process in leftovers(cluster.state)["processes"]:  # type: ignore[attr-defined]
        pid = int(process.split()[0])
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):  # gone with the init it lived under
                os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while cluster.running and time.monotonic() < end:
        time.sleep(0.05)
    assert not cluster.running
    assert clusters.down(cluster.state.name)
    assert leftovers(cluster.state) == {}
    assert not clusters.down(cluster.state.name)


@pytest.mark.parametrize("seconds", [0.6, 1.2, 2.5, 4.0])
def test_after_kill_9_of_up_itself(
    real_spec: ClusterSpec, sandbox_name: Name, leftovers: Leftovers, seconds: float
) -> None:
    name = sandbox_name(f"h{int(seconds * 10)}")
    with subprocess.Popen([sys.executable, "-c", _UP, name]) as starting:
        time.sleep(seconds)
        starting.kill()
    state = states.read(name)
    clusters.down(name)
    assert not states.folder(name).exists()
    assert state is None or leftovers(state) == {}


def test_up_finishes_what_an_up_that_was_killed_began(sandbox_name: Name) -> None:
    name = sandbox_name("f")
    first = Cluster.up(name, ClusterSpec(simulated=rack(1)))
    (first.folder / "whole").unlink()
    second = Cluster.up(name, ClusterSpec(simulated=rack(2)))
    assert len(second.api.get("/api/v1/nodes")["items"]) == 2


def test_the_dead_are_replaced_by_up(
    real_spec: ClusterSpec, sandbox_name: Name, leftovers: Leftovers
) -> None:
    name = sandbox_name("r")
    first = Cluster.up(name, ClusterSpec())
    first.kill("etcd")
    assert not first.running
    second = Cluster.up(name, ClusterSpec())
    assert second.running
    second.down()
    assert leftovers(second.state) == {}


def test_what_is_on_record_but_was_never_made(
    real_spec: ClusterSpec, sandbox_name: Name, leftovers: Leftovers, tmp_path: Path
) -> None:
    name = sandbox_name("n")
    programs = dict.fromkeys(("etcd",), tmp_path)
    state = clusters._allocate(name, real_spec, programs)
    assert clusters.down(name)
    assert leftovers(state) == {}
