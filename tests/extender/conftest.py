"""A cluster small enough to read in a test: nodes, pods and plans as the API server has them."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.testclient import TestClient

from evenkeel_core.plans import Assignment, Plan, Terms
from evenkeel_core.quantities import CPU, Bytes, Seconds, Work
from evenkeel_core.subtasks import Edge, Subtask, TaskGraph, Variant
from evenkeel_extender import app, planned, pods, snapshots
from evenkeel_extender.pods import Pod
from evenkeel_extender.snapshots import Servers, Snapshot
from evenkeel_extender.state import State
from evenkeel_kube import names, plans

Object = dict[str, Any]
JOB = "job-uid"


def make_node(name: str, cpu: str = "8", **more: Any) -> Object:
    """Return a Node; a tenth of its CPU is reserved."""
    amounts = {"cpu": cpu, "memory": "32Gi", "pods": "110"}
    return {
        "metadata": {"name": name, "labels": more.pop("labels", {})},
        "spec": more,
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def controller(uid: str) -> Object:
    """Return the reference by which a job owns what is its own."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "name": "job",
        "uid": uid,
        "controller": True,
    }


def make_pod(
    subtask: str = "",
    *,
    cpu: str = "1",
    server: str = "",
    node: str = "",
    work: float = 10,
    gated: bool = False,
    phase: str = "Pending",
    uid: str = "",
    job: str = JOB,
) -> Object:
    """Return a Pod of a job's subtask, or a stranger's if it has no subtask."""
    uid = uid or f"uid-{subtask or 'stranger'}"
    metadata: Object = {"name": uid.removeprefix("uid-"), "namespace": "default", "uid": uid}
    if subtask:
        metadata["labels"] = {names.LABEL_JOB_UID: job, names.LABEL_SUBTASK: subtask}
        metadata["ownerReferences"] = [controller(job)]
        metadata["annotations"] = {
            names.ANNOTATION_SERVER: server,
            names.ANNOTATION_WORK: f"{work}",
        }
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}
    spec: Object = {"containers": [container], "schedulerName": "evenkeel"}
    if node:
        spec["nodeName"] = node
    if gated:
        spec["schedulingGates"] = [{"name": names.GATE}]
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


def make_record(
    costs: Mapping[str, Mapping[str, float]],
    where: Mapping[str, str],
    *,
    work: float = 10,
    edges: Sequence[tuple[str, str, int]] = (),
    attempts: Mapping[str, int] | None = None,
    **subtask: Any,
) -> plans.Record:
    """Return a plan on record with the given costs by subtask and server; every rate is 1."""
    servers = tuple(sorted({name for row in costs.values() for name in row}))
    found = [
        Subtask(name, "t", name, index, Work(work), (Variant(CPU, {CPU: 1000}),), **subtask)
        for index, name in enumerate(costs)
    ]
    assignments = tuple(
        Assignment(
            name, where[name], Seconds(row[where[name]]), Seconds(0), Terms(0, 0, 0), servers
        )
        for name, row in costs.items()
    )
    plan = Plan(
        job="default/job",
        graph=TaskGraph(tuple(found), tuple(Edge(a, b, Bytes(size)) for a, b, size in edges)),
        assignments=assignments,
        scale=Seconds(10),
        balance=0.1,
        servers=servers,
        columns=tuple(range(len(servers))),
        rates=(1.0,) * len(servers),
        costs=tuple(tuple(row.get(s, float("inf")) for s in servers) for row in costs.values()),
        rows=tuple(range(len(costs))),
    )
    started = dict.fromkeys(costs, 1) if attempts is None else dict(attempts)
    return plans.Record(1, plan, started)


def make_config_map(record: plans.Record, job: str = JOB) -> Object:
    return {
        "metadata": {
            "name": plans.name("job"),
            "namespace": "default",
            "labels": {names.LABEL_JOB_UID: job, names.LABEL_PLAN: "true"},
            "ownerReferences": [controller(job)],
        },
        "binaryData": {plans.KEY: plans.encode(record)},
    }


@dataclass
class World:
    """What the watches would hold."""

    nodes: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    records: list[plans.Record] = field(default_factory=list)
    profiles: list[Object] = field(default_factory=list)
    now: float = 100.0

    def snapshot(self) -> Snapshot:
        return snapshots.build(
            Servers(),
            self.nodes,
            self.profiles,
            [read(pod) for pod in self.pods],
            [planned.decode(json.dumps(make_config_map(r)).encode()) for r in self.records],
        )

    def state(self) -> State:
        state = State(lambda: self.now)
        state.swap(self.snapshot(), set())
        return state

    def client(self, state: State | None = None) -> TestClient:
        return TestClient(app.create(state or self.state()), raise_server_exceptions=False)


def read(pod: Object) -> Pod:
    """Return a pod as the extender decodes it."""
    return pods.decode(json.dumps(pod).encode())


@pytest.fixture
def world() -> World:
    """Three servers of 8 cores, and a job of three subtasks: one on each."""
    costs = {
        "a": {"n1": 10.0, "n2": 20.0, "n3": 40.0},
        "b": {"n1": 20.0, "n2": 10.0, "n3": 40.0},
        "c": {"n1": 20.0, "n2": 20.0, "n3": 10.0},
    }
    where = {"a": "n1", "b": "n2", "c": "n3"}
    return World(
        [make_node(name) for name in ("n1", "n2", "n3")],
        [make_pod(name, server=server) for name, server in where.items()],
        [make_record(costs, where)],
    )


@pytest.fixture(scope="session")
def make() -> Any:
    """Return the makers of objects."""

    class Makers:
        node = staticmethod(make_node)
        pod = staticmethod(make_pod)
        record = staticmethod(make_record)
        config_map = staticmethod(make_config_map)
        world = World
        read = staticmethod(read)

    return Makers


@pytest.fixture
def args() -> Callable[..., Object]:
    """Return a maker of kube-scheduler's request."""

    def made(pod: Object, *names_: str) -> Object:
        return {"Pod": pod, "Nodes": None, "NodeNames": list(names_)}

    return made


@pytest.fixture
def garbled() -> str:
    """Return text that looks like a plan and is none."""
    return base64.b64encode(b"no plan").decode()
