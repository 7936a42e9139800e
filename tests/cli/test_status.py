"""`evenkeel status` and `explain`: what they say of a job, from its objects."""

import asyncio
import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from evenkeel_cli import cluster, elsewhere, following, printing, status
from evenkeel_cli.plan import read_job, read_servers
from evenkeel_core import planning
from evenkeel_core.servers import Server, Taint
from evenkeel_kube import names, plans, pods, statuses

JOB: dict[str, Any] = {
    "metadata": {
        "name": "llama-8b-batch",
        "namespace": "default",
        "uid": "u-1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {"runtime": {"timeScale": 4}},
    "status": {
        "state": "Running",
        "completed": "0-1",
        "subtaskCounts": {"total": 24, "succeeded": 2},
        "conditions": [
            {"type": "Planned", "status": "True", "reason": "Planned", "message": ""},
            {"type": "Scheduled", "status": "False", "reason": "Waiting", "message": "2 wait"},
        ],
    },
}


@pytest.fixture(scope="module")
def planned() -> tuple[plans.Record, list[Server]]:
    folder = Path(__file__).parents[2] / "examples"
    servers = read_servers(folder / "servers.yaml")
    made = planning.plan(read_job(folder / "llama-8b-batch.yaml"), servers)
    return plans.Record(1, made, attempts={"batch-1": 2}), servers


def pod(subtask: str, node: str | None, attempt: int = 1, **state: Any) -> dict[str, Any]:
    name = pods.pod_name(JOB["metadata"], subtask, attempt)
    spec: dict[str, Any] = {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}
    spec |= {"nodeName": node} if node else {"schedulingGates": [{"name": names.GATE}]}
    return {"metadata": {"name": name}, "spec": spec, "status": state}


def ended(seconds: int) -> dict[str, Any]:
    stopped = {
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": f"2026-01-01T00:00:{seconds:02}Z",
    }
    return {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": stopped}}]}


@pytest.fixture
def running(planned: tuple[plans.Record, list[Server]]) -> cluster.Running:
    record, _ = planned
    places = {place.subtask: place for place in record.plan.assignments}
    held = [
        pod("batch-0", places["batch-0"].server, **ended(3)),
        pod("batch-1", "elsewhere", **ended(9)),  # an older attempt, which does not count
        pod("batch-1", places["batch-1"].shortlist[1], 2, **ended(2)),
        pod("batch-2", places["batch-2"].server, phase="Running"),
        pod("batch-3", None),
    ]
    return cluster.Running(copy.deepcopy(JOB), record, {p["metadata"]["name"]: p for p in held})


def test_each_subtask_has_its_line(running: cluster.Running) -> None:
    lines = following.lines(running)
    assert len(lines) == 24
    assert [line.state for line in lines[:5]] == [
        "Succeeded", "Succeeded", "Running", "Waiting", "Waiting",
    ]  # fmt: skip
    assert [line.actual for line in lines[:4]] == [12.0, 8.0, None, None]
    assert lines[1].attempt == 2
    assert lines[4].server is None


@pytest.fixture
def moved(
    running: cluster.Running, planned: tuple[plans.Record, list[Server]]
) -> tuple[cluster.Running, following.Line, dict[str, Server]]:
    """Return a job, its line that is not where the plan wanted it, and the servers."""
    (line,) = following.deviations(following.lines(running))
    assert line.subtask == "batch-1"
    return running, line, {server.name: server for server in planned[1]}


Moved = tuple[cluster.Running, following.Line, dict[str, Server]]


def stranger(server: str, **more: Any) -> dict[str, Any]:
    requests = {"cpu": "100000"}
    spec = {"nodeName": server, "containers": [{"resources": {"requests": requests}}], **more}
    return {"metadata": {"name": "stranger"}, "spec": spec, "status": {"phase": "Running"}}


def test_what_landed_elsewhere_is_told_with_the_cause_that_holds(moved: Moved) -> None:
    running, line, servers = moved

    def why(held: Any = (), live: Any = None, **changed: Any) -> str:
        there = dataclasses.replace(servers[line.planned], **changed)
        kept = None if held is None else elsewhere.holders(held)
        seen = elsewhere.Seen({**servers, line.planned: there}, kept)
        return elsewhere.why(running, line, seen, live)

    assert f"{line.planned} was planned" in why()
    assert "number 2 of its shortlist" in why()
    assert "is not on record" in why()
    assert "ServerNotReady" in why(ready=False)
    assert "ServerCordoned" in why(schedulable=False)
    assert "TaintNotTolerated" in why(taints=(Taint("k", "v", "NoSchedule"),))
    busy = why([stranger(line.planned)])
    assert "Busy" in busy
    assert "held by stranger" in busy
    assert "Busy" not in why([stranger("another")])
    assert "can't be seen" in why(None)
    refused = {"servers": [{"server": line.planned, "refused": "Busy"}]}
    assert "the extender refuses it now (Busy)" in why(live=refused)
    gone = {name: server for name, server in servers.items() if name != line.planned}
    assert "ServerGone" in elsewhere.why(running, line, elsewhere.Seen(gone, {}))


def test_its_own_pod_is_in_nobodys_way(moved: Moved) -> None:
    running, line, servers = moved
    itself = stranger(line.planned)
    itself["metadata"]["name"] = line.pod
    seen = elsewhere.Seen(servers, elsewhere.holders([itself]))
    assert "Busy" not in elsewhere.why(running, line, seen)


def test_what_is_released_holds_room_and_what_is_gated_or_ended_does_not() -> None:
    released = stranger("", nodeName=None)
    released["metadata"]["annotations"] = {names.ANNOTATION_SERVER: "a"}
    gated = copy.deepcopy(released)
    gated["spec"]["schedulingGates"] = [{"name": names.GATE}]
    ended_ = stranger("a") | {"status": {"phase": "Succeeded"}}
    assert set(elsewhere.holders([released])) == {"a"}
    assert elsewhere.holders([gated, ended_]) == {}


def test_a_document_and_a_table_say_the_same(running: cluster.Running) -> None:
    document = status.document(running)
    assert document["state"] == "Running"
    assert document["reason"] == "Waiting"
    assert document["tasks"][0]["actualSeconds"] == 12.0
    console = printing.console()
    with console.capture() as said:
        console.print(status.render(running))
    assert "2 of 24 subtasks done" in said.get()
    assert "Waiting: 2 wait" in said.get()
    assert "as planned" in said.get()


def test_what_keeps_subtasks_waiting_is_said_once(running: cluster.Running) -> None:
    """In the words of the scheduler, or of the node; starting up is no obstacle."""
    missing = 'persistentvolumeclaim "w" not found'
    unbound = {"type": "PodScheduled", "reason": "Unschedulable", "message": missing}
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    starting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    held = [
        pod("batch-4", "n", conditions=[unbound]),
        pod("batch-5", "n", conditions=[unbound]),
        pod("batch-6", "n", containerStatuses=[pulling]),
        pod("batch-7", "n", containerStatuses=[starting]),
    ]
    pods_ = dict(running.pods) | {p["metadata"]["name"]: p for p in held}
    stuck = cluster.Running(running.job, running.record, pods_)
    tasks = {task["name"]: task["waitsFor"] for task in status.document(stuck)["tasks"]}
    assert {name: why for name, why in tasks.items() if why} == {
        "batch-4": missing, "batch-5": missing, "batch-6": "ImagePullBackOff: no such image",
    }  # fmt: skip
    console = printing.console()
    with console.capture() as said:
        console.print(status.render(stuck))
    assert f"batch-4 and 1 more: {missing}" in said.get()
    assert "batch-6: ImagePullBackOff: no such image" in said.get()


def test_a_job_without_a_plan_has_no_lines() -> None:
    job = {"metadata": JOB["metadata"], "spec": {}}
    assert following.lines(cluster.Running(job, None, {})) == []
    assert statuses.state(job) == "Pending"


@pytest.mark.parametrize("command", [("status",), ("status", "x"), ("explain", "x")])
def test_a_cluster_out_of_reach_is_one_sentence(
    run: Any, tmp_path: Path, command: tuple[str, ...]
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    answer = run(*command, "--kubeconfig", kubeconfig)
    assert answer.status == 2
    assert "can't be read" in answer.error
    kubeconfig.write_text(
        "current-context: c\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: u, user: {}}]\n"
    )
    answer = run(*command, "--kubeconfig", kubeconfig)
    assert answer.status == 2
    assert "the API server does not answer" in answer.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--watch"), "name it"),
        (("status", "x", "--watch", "-o", "json"), "--output json"),
        (("explain", "x", "--extender", "http://h"), "one subtask"),
    ],
)
def test_options_that_contradict_are_refused(
    run: Any, arguments: tuple[str, ...], said: str
) -> None:
    answer = run(*arguments)
    assert answer.status == 2
    assert said in answer.error


def test_the_plan_of_an_older_job_of_that_name_is_not_shown(running: cluster.Running) -> None:
    assert running.record
    job = {**JOB, "metadata": {**JOB["metadata"], "uid": "new"}}
    held = plans.manifest(job, running.record)
    assert cluster.belongs(held, job)
    held["metadata"]["labels"][names.LABEL_JOB_UID] = "old"
    objects = {"inferencejobs": job, "configmaps": held}

    class Api:
        async def get(self, path: str) -> Any:
            return objects[path.rpartition("/")[0].rpartition("/")[2]]

        async def list(self, *_: Any) -> Any:
            return [], "1"

    found = asyncio.run(cluster.running(Api(), "default", JOB["metadata"]["name"]))  # type: ignore[arg-type]
    assert found.record is None
    held["metadata"]["labels"][names.LABEL_JOB_UID] = "new"
    found = asyncio.run(cluster.running(Api(), "default", JOB["metadata"]["name"]))  # type: ignore[arg-type]
    assert found.record == running.record
