"""The loop against an API server with optimistic locking that fails on purpose."""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from evenkeel_core.reasons import Reason
from evenkeel_kube import names, plans
from evenkeel_kube.client import AlreadyExists, Client, Conflict, Invalid, NotFound, Unavailable
from evenkeel_operator import deciding
from evenkeel_operator.leading import LeadershipLostError
from evenkeel_operator.running import Operator
from evenkeel_operator.settings import Settings

Object = dict[str, Any]
Objects = list[Object]
JOBS = f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs"
PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"


class Server(Client):
    """Objects by path, each write with a new version."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.posts: list[str] = []
        self.refuse: Callable[[str, str], Exception | None] | None = None
        self._version = itertools.count(1)

    def put(self, where: str, obj: Mapping[str, Any]) -> Object:
        stored: Object = copy.deepcopy(dict(obj))
        stored["metadata"]["resourceVersion"] = str(next(self._version))
        self.objects[where] = stored
        return copy.deepcopy(stored)

    def _checked(self, method: str, where: str) -> None:
        error = self.refuse(method, where) if self.refuse is not None else None
        if error is not None:
            raise error

    def _held(self, where: str) -> Object:
        if where not in self.objects:
            raise NotFound(404, "NotFound", where)
        return self.objects[where]

    async def get(self, where: str, params: Any = None) -> Object:
        self._checked("GET", where)
        return copy.deepcopy(self._held(where))

    async def list(self, where: str, params: Any = None) -> tuple[Objects, str]:
        plural = where.rpartition("/")[2]
        found = [o for path, o in self.objects.items() if f"/{plural}/" in path]
        return copy.deepcopy(found), str(next(self._version))

    async def create(self, where: str, obj: Mapping[str, Any]) -> Object:
        self.posts.append(where)
        self._checked("POST", where)
        if where.endswith("/events"):
            return dict(obj)
        path = f"{where}/{obj['metadata']['name']}"
        if path in self.objects:
            raise AlreadyExists(409, "AlreadyExists", path)
        given = copy.deepcopy(dict(obj))
        given["metadata"].setdefault("uid", f"uid-{next(self._version)}")
        return self.put(path, given)

    async def replace(self, where: str, obj: Mapping[str, Any]) -> Object:
        held = self._held(where)
        if obj["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", where)
        return self.put(where, obj)

    async def merge(self, where: str, change: Mapping[str, Any]) -> Object:
        where = where.removesuffix("/status")
        held = self._held(where)
        for key, value in change.get("metadata", {}).items():
            if held["metadata"][key] != value:
                raise Conflict(409, "Conflict", f"{where}: {key}")
        return self.put(where, {**held, "status": {**held.get("status", {}), **change["status"]}})

    async def patch(self, where: str, operations: Any) -> Object:
        self._checked("PATCH", where)
        held = copy.deepcopy(self._held(where))
        for step in operations:
            if step["op"] == "test":
                if held["metadata"]["resourceVersion"] != step["value"]:
                    raise Invalid(422, "Invalid", "the test failed")
            elif step["path"] == "/spec/schedulingGates":
                held["spec"]["schedulingGates"] = step.get("value", [])
            elif step["path"] == "/metadata/finalizers":
                held["metadata"]["finalizers"] = step["value"]
            elif "released" in step["path"]:
                held["metadata"]["annotations"][names.ANNOTATION_RELEASED] = step["value"]
        return self.put(where, held)

    async def delete(self, where: str, **options: Any) -> None:
        self._held(where)["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"

    # For the tests

    def pods(self) -> Objects:
        return [o for path, o in self.objects.items() if path.startswith(PODS)]

    def conditions(self, job: str = "job") -> dict[str, tuple[str, str, str]]:
        found = self.objects[f"{JOBS}/{job}"]["status"]["conditions"]
        return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}


def node(name: str, cpu: str = "8", pods: str = "110") -> Object:
    amounts = {"cpu": cpu, "memory": "32Gi", "pods": pods}
    return {
        "metadata": {"name": name, "resourceVersion": "1"},
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


class World:
    """An operator whose caches the tests keep current, and its API server."""

    def __init__(self, **settings: Any) -> None:
        self.api = Server()
        self.operator = Operator(self.api, Settings(**settings))
        for name in ("s1", "s2", "s3"):
            self.operator._caches.nodes.items[name] = node(name)

    def apply(self, manifest: Object, name: str = "job", uid: str = "uid-1") -> None:
        manifest = copy.deepcopy(manifest)
        manifest["metadata"] |= {"name": name, "uid": uid}
        self.api.put(f"{JOBS}/{name}", manifest)

    async def passes(self, count: int = 1) -> None:
        """Let the watches catch up, and the operator look, so many times."""
        for _ in range(count):
            caches = self.operator._caches
            caches.pods.items.clear()
            caches.plans.items.clear()
            for path, held in copy.deepcopy(self.api.objects).items():
                key = f"default/{held['metadata']['name']}"
                if path.startswith(PODS):
                    caches.pods.items[key] = held
                elif path.startswith(MAPS) and names.LABEL_PLAN in held["metadata"]["labels"]:
                    caches.plans.items[key] = held
            await self.operator._relist()
            await self.operator._pass()

    def record(self, job: str = "job") -> plans.Record:
        return plans.decode(self.api.objects[f"{MAPS}/{plans.name(job)}"]["binaryData"][plans.KEY])


@pytest.fixture
def world() -> World:
    return World()


def gates(pods: list[Object]) -> list[int]:
    return [len(pod["spec"].get("schedulingGates") or ()) for pod in pods]


@pytest.fixture
def pipeline() -> Object:
    """Return a job that is one coupled set."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": {
            "namespace": "default",
            "generation": 1,
            "creationTimestamp": "2027-01-15T08:00:00Z",
        },
        "spec": {
            "model": {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"},
            "runtime": {"engine": "simulator"},
            "parallelism": {"pipeline": 2, "data": 1},
            "input": {"prompts": ["why"]},
        },
    }


async def test_a_set_of_which_one_gate_could_not_be_opened_is_opened_later(
    world: World, pipeline: Object
) -> None:
    world.apply(pipeline)
    failed: list[str] = []

    def once(method: str, where: str) -> Exception | None:
        if method == "PATCH" and not failed:
            failed.append(where)
            return Unavailable(0, "NoAnswer", "")
        return None

    world.api.refuse = once
    await world.passes(3)
    assert sorted(gates(world.api.pods())) == [0, 1], "one gate fell, the other patch was lost"
    await world.passes(1)
    assert gates(world.api.pods()) == [0, 0]


async def test_one_jobs_defect_is_not_the_others(
    world: World, dag: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = deciding.decide

    def broken(view: Any, *rest: Any) -> Any:
        if view.manifest["metadata"]["name"] == "bad":
            raise KeyError("a defect")
        return decide(view, *rest)

    monkeypatch.setattr(deciding, "decide", broken)
    world.apply(dag, "bad", "uid-bad")
    world.apply(dag, "good", "uid-good")
    await world.passes(3)
    assert world.api.conditions("good")["Planned"][0] == "True"
    assert not world.api.objects[f"{JOBS}/bad"]["status"]


async def test_a_job_that_can_not_be_read_says_so_and_is_not_the_others(
    world: World, dag: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Operator._read

    async def broken(self: Operator, job: Object, *rest: Any) -> Any:
        if job["metadata"]["name"] == "bad":
            raise ZeroDivisionError("of the model's shape")
        return await read(self, job, *rest)

    monkeypatch.setattr(Operator, "_read", broken)
    world.apply(dag, "bad", "uid-bad")
    world.apply(dag, "good", "uid-good")
    await world.passes(3)
    status, reason, message = world.api.conditions("bad")["Accepted"]
    assert (status, reason) == ("False", str(Reason.DEFECT))
    assert "ZeroDivisionError: of the model's shape" in message
    assert world.api.conditions("good")["Planned"][0] == "True"


async def test_the_pods_of_a_job_deleted_in_the_foreground_are_let_go(
    world: World, dag: Object
) -> None:
    world.apply(dag)
    await world.passes(3)
    assert any(pod["metadata"]["finalizers"] for pod in world.api.pods())
    world.api.objects[f"{JOBS}/job"]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    await world.passes(2)
    assert not any(pod["metadata"]["finalizers"] for pod in world.api.pods())


async def test_a_namesake_does_not_inherit_what_became_of_the_job_before(
    world: World, dag: Object
) -> None:
    world.apply(dag)
    await world.passes(3)
    for pod in world.api.pods():
        pod["status"] = {"phase": "Succeeded"}
        pod["spec"] |= {"nodeName": "s1", "schedulingGates": []}
    plan = world.operator._plan

    async def deleted_and_applied_meanwhile(*given: Any) -> None:
        world.apply(dag, uid="uid-2")
        await plan(*given)

    world.operator._plan = deleted_and_applied_meanwhile  # type: ignore[method-assign]
    await world.passes(1)
    assert world.api.objects[f"{JOBS}/job"]["metadata"]["uid"] == "uid-2"
    assert "completed" not in world.api.objects[f"{JOBS}/job"].get("status", {})


async def test_a_refused_pod_is_told_of_and_not_tried_in_every_pass(
    world: World, dag: Object
) -> None:
    dag["spec"]["tasks"][0]["shards"] = 50
    world.api.refuse = lambda method, where: (
        Invalid(422, "Invalid", "image: Required value")
        if method == "POST" and where == PODS
        else None
    )
    world.apply(dag)
    await world.passes(8)
    assert world.api.posts.count(PODS) <= 52
    scheduled = world.api.conditions()["Scheduled"]
    assert scheduled == ("False", str(Reason.POD_NOT_CREATED), "image: Required value")


async def test_somebody_elses_config_map_in_the_way_is_named(world: World, dag: Object) -> None:
    stranger = {"metadata": {"name": plans.name("job"), "namespace": "default", "labels": {}}}
    world.api.put(f"{MAPS}/{plans.name('job')}", stranger)
    world.apply(dag)
    await world.passes(5)
    status, reason, message = world.api.conditions()["Planned"]
    assert (status, reason) == ("False", str(Reason.PLAN_NOT_WRITTEN))
    assert plans.name("job") in message
    assert world.api.pods() == []


async def test_a_job_that_goes_while_inputs_are_read_is_just_gone(
    world: World, dag: Object, pipeline: Object
) -> None:
    pipeline["spec"]["input"] = {"configMapRef": {"name": "requests"}}
    world.apply(pipeline, "a", "uid-a")
    world.apply(dag, "b", "uid-b")

    def deleted(method: str, where: str) -> Exception | None:
        if method == "GET" and where.endswith("requests"):
            gone = world.api.objects.pop(f"{JOBS}/b", None)
            if gone:
                world.operator.seen("DELETED", gone)
        return None

    world.api.refuse = deleted
    await world.passes(2)
    assert world.api.conditions("a")["Planned"][1] == str(Reason.INSPECTING)


async def test_a_late_word_of_the_old_job_does_not_forget_its_namesake(
    world: World, dag: Object
) -> None:
    world.apply(dag)
    old = copy.deepcopy(world.api.objects[f"{JOBS}/job"])
    world.apply(dag, uid="uid-2")
    await world.passes(1)
    world.operator.seen("DELETED", old)
    assert list(world.operator._jobs) == ["default/job"]


async def test_a_plan_that_can_not_be_read_stops_the_job(world: World, dag: Object) -> None:
    world.apply(dag)
    await world.passes(3)
    where = f"{MAPS}/{plans.name('job')}"
    world.api.put(where, {**world.api.objects[where], "binaryData": {plans.KEY: "broken"}})
    before = len(world.api.pods())
    await world.passes(3)
    assert world.api.conditions()["Accepted"][:2] == ("False", str(Reason.PLAN_NOT_READABLE))
    assert len(world.api.pods()) == before
    del world.api.objects[where]
    await world.passes(2)
    assert world.api.conditions()["Planned"][0] == "True", "taken away, it is planned anew"


async def test_attempts_go_on_where_pods_of_a_lost_plan_ended(world: World, dag: Object) -> None:
    world.apply(dag)
    await world.passes(3)
    del world.api.objects[f"{MAPS}/{plans.name('job')}"]
    world.operator._records.clear()
    await world.passes(1)
    assert world.record().attempts == {"a-0": 2, "b-0": 2, "b-1": 2}


async def test_no_more_gates_fall_than_servers_have_slots_for_pods(dag: Object) -> None:
    world = World()
    for name in ("s1", "s2", "s3"):
        world.operator._caches.nodes.items[name] = node(name, pods="10")
    dag["spec"]["tasks"] = dag["spec"]["tasks"][:1]
    task = dag["spec"]["tasks"][0]
    task["shards"] = 60
    task["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1m"}}
    world.apply(dag)
    await world.passes(4)
    pods = world.api.pods()
    assert len(pods) == 60
    assert gates(pods).count(0) <= 30


async def test_who_does_not_lead_any_more_writes_nothing(world: World, dag: Object) -> None:
    def lost() -> None:
        raise LeadershipLostError

    world.operator._actor._confirm = lost
    world.apply(dag)
    with pytest.raises(LeadershipLostError):
        await world.passes(2)
    assert world.api.posts == []
