"""One sandbox with everything running, shared by the end-to-end tests."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evenkeel_kube import names, plans, racks
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.places import own
from evenkeel_sandbox.simulated import SimulatedNode, described
from evenkeel_sandbox.specs import TIMINGS, ClusterSpec, default_nodes

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]


def manifest(name: str, spec: Object) -> Object:
    labels = {"test": "sets"} if name.startswith("set-") else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": spec,
    }


@dataclass(frozen=True, slots=True)
class Rack:
    """What the tests do with the sandbox."""

    cluster: Cluster

    def get(self, path: str) -> Any:
        return self.cluster.api.get(path)

    def job(self, name: str) -> Object:
        found: Object = self.get(
            f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs/{name}"
        )
        return found

    def pods(self, job: str) -> list[Object]:
        uid = self.job(job)["metadata"]["uid"]
        path = f"/api/v1/namespaces/default/pods?labelSelector={names.LABEL_JOB_UID}%3D{uid}"
        items: list[Object] = self.get(path)["items"]
        return items

    def record(self, job: str) -> plans.Record:
        found = self.get(f"/api/v1/namespaces/default/configmaps/{plans.name(job)}")
        return plans.decode(found["binaryData"][plans.KEY])

    def apply(self, name: str, spec: Object) -> None:
        """Apply a job, as a user would."""
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest(name, spec)))

    def create(self, name: str, spec: Object) -> None:
        """Create a job without starting a program for it."""
        path = f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs"
        self.cluster.api.create(path, manifest(name, spec))

    def condition(self, job: str, kind: str) -> Object:
        found = (self.job(job).get("status") or {}).get("conditions") or []
        return next((c for c in found if c["type"] == kind), {"status": "Unknown", "reason": ""})

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
            time.sleep(0.1)

    def ends(self, job: str, kind: str = "Succeeded", seconds: float = 90) -> Object:
        """Wait until a job has ended as expected, and return it."""

        def ended() -> bool:
            return any(self.condition(job, k)["status"] == "True" for k in ("Succeeded", "Failed"))

        self.wait(f"{job} ends", ended, seconds)
        condition = self.condition(job, kind)
        assert condition["status"] == "True", self.job(job)["status"]["conditions"]
        return self.job(job)

    def delete(self, job: str) -> None:
        self.cluster.kubectl("delete", "inferencejob", job, "--wait=false", "--ignore-not-found")

    def stranger(self, name: str, node: str, cpu: str) -> None:
        """Put somebody else's pod on a node, past every scheduler."""
        container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": node,
                "containers": [container],
                "tolerations": [{"operator": "Exists"}],
            },
        }
        self.cluster.api.call("POST", "/api/v1/namespaces/default/pods", pod)

    @contextlib.contextmanager
    def paused(self, process: str) -> Iterator[None]:
        """Kill one of Evenkeel's processes for a while."""
        self.cluster.kill(process)
        try:
            yield
        finally:
            self.cluster.restart(process)

    def nodes(self, group: str, count: int, cpu: str = "8", memory: str = "16Gi") -> list[str]:
        """Add simulated nodes that only jobs with this group's selector use."""
        found = [
            SimulatedNode(
                f"{group}-{number}",
                {"cpu": cpu, "memory": memory},
                {"test": group, "evenkeel.dev/cpu": "EPYC-7763"},
                [{"key": "test", "value": group, "effect": "NoSchedule"}],
            )
            for number in range(count)
        ]
        self.cluster.add_simulated(found)
        ours = {node.name for node in found}
        self.wait(f"nodes of {group}", lambda: not ours & set(self.cluster.unready()))
        return [node.name for node in found]


@pytest.fixture(scope="session")
def rack() -> Iterator[Rack]:
    described_rack = racks.read((ROOT / "examples" / "servers.yaml").read_text(encoding="utf-8"))
    spec = ClusterSpec(
        nodes=default_nodes(ROOT / "kind-config.yaml"),
        simulated=described(described_rack),
        profiles=described_rack.profiles,
        timing=TIMINGS["moderate"],
        evenkeel=True,
    )
    cluster = Cluster.fresh(own("e2e"), spec)
    try:
        yield Rack(cluster)
    finally:
        cluster.down()


@pytest.fixture
def on() -> Callable[[str], Object]:
    """Return what restricts a job to the nodes of a group."""

    def restrict(group: str) -> Object:
        return {
            "nodeSelector": {"test": group},
            "tolerations": [{"key": "test", "operator": "Exists"}],
        }

    return restrict


@pytest.fixture
def simulated() -> Callable[..., Object]:
    """Return a maker of simulator jobs."""

    def make(
        prompts: int,
        *,
        model: str = "file://llama-3.1-8b-instruct-q4_k_m.gguf",
        scale: float = 20,
        **spec: Any,
    ) -> Object:
        return {
            "model": {"uri": model},
            "runtime": {"engine": "simulator", "timeScale": scale},
            "input": {"prompts": [f"prompt {n} " + "x" * 400 for n in range(prompts)]},
            **spec,
        }

    return make
