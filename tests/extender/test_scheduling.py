"""The extender behind a real kube-scheduler, on simulated nodes."""

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evenkeel_core.jobs import Constraints, Toleration
from evenkeel_kube import names, plans, pods
from evenkeel_sandbox import attaching
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.simulated import SimulatedNode
from evenkeel_sandbox.specs import ClusterSpec

pytestmark = pytest.mark.sandbox
Object = dict[str, Any]
NODES = tuple(f"n{number}" for number in range(1, 7))
PODS = "/api/v1/namespaces/default/pods"
RECORDS = "/api/v1/namespaces/default/configmaps"
JOBS = f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs"


class Scheduled:
    """What the tests do with the cluster: plans and pods by hand, no operator."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def plan(self, record: plans.Record) -> str:
        """Put a plan on record, and a job that owns it; return the job's uid."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceJob",
            "metadata": {"name": "job", "namespace": "default"},
            "spec": {
                "model": {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"},
                "input": {"prompts": ["why"]},
                "suspend": True,
            },
        }
        job = self.cluster.api.create(JOBS, body)
        self.cluster.api.create(RECORDS, plans.manifest(job, record))
        return str(job["metadata"]["uid"])

    def create(self, pod: Object) -> Object:
        """Create a pod that may run on simulated nodes."""
        pod["apiVersion"], pod["kind"] = "v1", "Pod"
        pod["spec"]["tolerations"] = [{"operator": "Exists"}]
        del pod["metadata"]["uid"]
        created: Object = self.cluster.api.create(PODS, pod)
        return created

    def release(self, *created: Object, shortlist: tuple[str, ...] = NODES) -> None:
        """Open the gates as the operator does, and write the shortlist."""
        for pod in created:
            patch = pods.release(pod, shortlist, (), 0.0)
            where = f"{PODS}/{pod['metadata']['name']}"
            self.cluster.api.call("PATCH", where, patch, "application/json-patch+json")

    def pod(self, name: str) -> Object:
        found: Object = self.cluster.api.get(f"{PODS}/{name}")
        return found

    def where(self, *pods_: str) -> list[str]:
        """Return the nodes of pods, once all are bound."""
        self.wait("bound", lambda: all(self.pod(name)["spec"].get("nodeName") for name in pods_))
        return [str(self.pod(name)["spec"]["nodeName"]) for name in pods_]

    def refused(self, name: str) -> str:
        """Return why a pod is not scheduled, once the scheduler has said so."""

        def conditions() -> list[Object]:
            found = self.pod(name)["status"].get("conditions") or []
            return [c for c in found if c.get("reason") == "Unschedulable"]

        self.wait("the scheduler says why", lambda: bool(conditions()))
        return str(conditions()[0]["message"])

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        self.cluster.wait(what, ready, seconds=30)

    def ask(self, path: str) -> Any:
        """Ask the extender itself."""
        port = self.cluster.state.ports["evenkeel-extender"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return json.load(answer)

    def known(self, pod: str) -> bool:
        """Tell whether the extender has the pod and its plan."""
        rows = self.ask(f"/explain/default/{pod}")["servers"]
        return any(row["utility"] is not None for row in rows)

    def free(self, server: str, cpu: int) -> None:
        """Wait until the extender counts so many thousandths of a CPU free there."""

        def there() -> bool:
            rows = self.ask("/servers")
            return any(row["name"] == server and row["free"]["cpu"] == cpu for row in rows)

        self.wait(f"{cpu} m of CPU are free on {server}", there)

    def fill(self, stranger: Object, server: str) -> None:
        """Let a pod of nobody we know take all that is left of a server."""
        self.create(stranger)
        self.free(server, 0)


@pytest.fixture(scope="module")
def scheduled() -> Iterator[Scheduled]:
    nodes = tuple(SimulatedNode(name, {"cpu": "8", "memory": "32Gi"}) for name in NODES)
    cluster = Cluster.up(f"x{os.getpid()}", ClusterSpec(simulated=nodes, evenkeel=True))
    try:
        cluster.kill("evenkeel-operator")
        yield Scheduled(cluster)
    finally:
        cluster.down()


@pytest.fixture(autouse=True)
def clean(scheduled: Scheduled) -> Iterator[None]:
    yield
    for collection in (PODS, RECORDS, JOBS):
        scheduled.cluster.api.call("DELETE", f"{collection}?gracePeriodSeconds=0")
    scheduled.wait("empty", lambda: all(row["load"] == 0 for row in scheduled.ask("/servers")))


@pytest.fixture
def planned(scheduled: Scheduled, make: Any) -> Callable[..., list[Object]]:
    """Return a maker of gated pods with their plan on record."""

    def made(where: dict[str, str], cpu: str = "1", **costs: dict[str, float]) -> list[Object]:
        rows = {
            name: {node: 10.0 if node == server else 20.0 for node in NODES} | costs.get(name, {})
            for name, server in where.items()
        }
        tolerant = Constraints(tolerations=(Toleration(operator="Exists"),))
        uid = scheduled.plan(make.record(rows, where, constraints=tolerant))
        created = [
            scheduled.create(make.pod(name, server=server, cpu=cpu, gated=True, job=uid))
            for name, server in where.items()
        ]
        scheduled.wait("the plan is known", lambda: all(scheduled.known(name) for name in where))
        return created

    return made


def test_pods_land_where_they_are_planned(
    scheduled: Scheduled, planned: Callable[..., list[Object]]
) -> None:
    where = {f"t{number}": NODES[number * 7 % 6] for number in range(36)}
    scheduled.release(*planned(where))
    assert scheduled.where(*where) == list(where.values())


def test_the_best_response_takes_what_was_filled_first(
    scheduled: Scheduled, planned: Callable[..., list[Object]], make: Any
) -> None:
    created = planned({"t": "n1"}, cpu="2", t={"n4": 15.0})
    scheduled.fill(make.pod(uid="uid-stranger", node="n1", cpu="7500m"), "n1")
    scheduled.release(*created)
    assert scheduled.where("t") == ["n4"]
    rows = scheduled.ask("/explain/default/t")["servers"]
    assert rows[0]["server"] == "n4"
    assert (
        rows[-1] | {"server": "n1", "planned": True, "refused": "InsufficientResource"} == rows[-1]
    )


def test_the_shortlist_bounds_where_it_may_go(
    scheduled: Scheduled, planned: Callable[..., list[Object]], make: Any
) -> None:
    created = planned({"t": "n1"}, cpu="2", t={"n4": 11.0})
    scheduled.fill(make.pod(uid="uid-stranger", node="n1", cpu="7500m"), "n1")
    scheduled.release(*created, shortlist=("n1", "n6"))
    assert scheduled.where("t") == ["n6"]


def test_a_pod_that_fits_nowhere_is_told_why(
    scheduled: Scheduled, planned: Callable[..., list[Object]], make: Any
) -> None:
    (unlucky,) = planned({"t": "n1"}, cpu="5")
    # Our gate has fallen, somebody else's has not: not bound, but its room is reserved.
    job = unlucky["metadata"]["ownerReferences"][0]["uid"]
    other = make.pod("w", server="n1", cpu="5", job=job)
    other["spec"]["schedulingGates"] = [{"name": "example.com/foreign"}]
    scheduled.create(other)
    scheduled.free("n1", 2200)
    scheduled.release(unlucky, shortlist=("n1",))
    assert "1 evenkeel: Busy: the server's free capacity is taken" in scheduled.refused("t")
    # What was never bound leaves no event for others: the scheduler asks again with the next.
    scheduled.cluster.kubectl("delete", "pod", "w", "--force", "--grace-period=0")
    scheduled.free("n1", 2200)
    scheduled.cluster.kubectl("label", "node", "n2", "an=event")
    assert scheduled.where("t") == ["n1"]


def test_a_crowd_never_takes_what_is_reserved(
    scheduled: Scheduled, planned: Callable[..., list[Object]]
) -> None:
    """Each server has room for seven beside its reserve; forty-two fill the rack exactly."""
    where = {f"t{number}": NODES[number % 6] for number in range(42)}
    scheduled.release(*planned(where))
    assert sorted(scheduled.where(*where)) == sorted(NODES * 7)


def test_without_the_extender_pods_are_still_placed(
    scheduled: Scheduled, planned: Callable[..., list[Object]]
) -> None:
    created = planned({"t": "n1"})
    scheduled.cluster.kill("evenkeel-extender")
    try:
        scheduled.release(*created, shortlist=("n1", "n2"))
        assert scheduled.where("t")[0] in ("n1", "n2")
    finally:
        scheduled.cluster.restart("evenkeel-extender")
        scheduled.wait(
            "the extender is back", lambda: scheduled.ask("/readyz")["servers"] == len(NODES)
        )
    assert scheduled.ask("/explain/default/t")["bound"] in ("n1", "n2")


def test_up_starts_what_does_not_run_any_more(scheduled: Scheduled) -> None:
    """A second `sandbox up` mends the first, and leaves what runs as it is."""
    cluster = scheduled.cluster
    scheduler = cluster.pid("evenkeel-scheduler")
    cluster.kill("evenkeel-extender")
    try:
        again = Cluster.up(cluster.state.name, ClusterSpec(evenkeel=True))
        assert all(again.processes.identity(name) for name in attaching.PROGRAMS)
        assert again.pid("evenkeel-scheduler") == scheduler
    finally:
        cluster.kill("evenkeel-operator")
