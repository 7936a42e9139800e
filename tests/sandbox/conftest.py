"""Sandboxes for the tests: started once a module, and always taken down."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evenkeel_sandbox import clusters, machines, states
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.simulated import rack
from evenkeel_sandbox.specs import TIMINGS, ClusterSpec, RealNode

REAL = (RealNode("worker-1", {"evenkeel.dev/pool": "real"}), RealNode("worker-2"))


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _processes(marks: tuple[str, ...]) -> list[str]:
    """Return the processes whose command line or control groups name the sandbox."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            groups = (folder / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(mark in command or mark in groups for mark in marks):
            found.append(f"{folder.name} {command}")
    return found


@pytest.fixture
def leftovers() -> Callable[[states.State], dict[str, object]]:
    """Return a function that finds everything a sandbox has on this machine."""

    def find(state: states.State) -> dict[str, object]:
        folder = states.folder(state.name)
        machine = state.machine("")
        links = [link["ifname"] for link in json.loads(_run("ip", "-j", "link"))]
        prefix = state.network.removesuffix(".0.0/16") if state.network else "none"
        found: dict[str, object] = {
            "processes": _processes((str(folder), f"/{machine}")),
            "namespaces": [path.name for path in Path("/run/netns").glob(f"{machine}*")],
            "links": [link for link in links if link.startswith(state.bridge)],
            "routes": [line for line in _run("ip", "route").splitlines() if f"{prefix}." in line],
            "groups": [str(path) for path in Path("/sys/fs/cgroup").rglob(f"{machine}*")],
            "mounts": [
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if str(folder) in line or machine in line
            ],
            "files": [str(folder)] if folder.exists() else [],
        }
        return {kind: what for kind, what in found.items() if what}

    return find


@pytest.fixture(scope="session")
def real_spec() -> ClusterSpec:
    """Two real nodes and a few simulated ones, lost ones noticed fast."""
    if obstacle := machines.obstacle():
        pytest.skip(f"no real nodes on this machine: {obstacle}")
    return ClusterSpec(REAL, rack(6), timing=TIMINGS["fast"])


@pytest.fixture
def sandbox_name() -> Iterator[Callable[[str], str]]:
    """Return names that no other run uses; whatever has them goes at the end."""
    used = []

    def name(suffix: str) -> str:
        used.append(f"t{os.getpid()}{suffix}")
        return used[-1]

    yield name
    for each in used:
        clusters.down(each)


@pytest.fixture(scope="module")
def cluster(real_spec: ClusterSpec) -> Iterator[Cluster]:
    """One running sandbox for the tests of a module."""
    made = Cluster.up(f"t{os.getpid()}", real_spec)
    yield made
    made.down()
