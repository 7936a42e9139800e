"""Given these objects, expect these actions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evenkeel_core.plans import Refusal
from evenkeel_core.quantities import MEMORY
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server
from evenkeel_kube import names, nodes, pods, statuses
from evenkeel_operator import deciding, reporting
from evenkeel_operator.deciding import Decision, View
from evenkeel_operator.settings import Settings

Object = dict[str, Any]
Views = Callable[..., View]
Change = Callable[..., Object]
NOW = 1_800_000_000.0


def decide(view: View, servers: dict[str, Server], now: float = NOW) -> Decision:
    return deciding.decide(view, servers, now, Settings())


def created(view: View, servers: dict[str, Server]) -> dict[str, Object]:
    """Return the pods a pass would create, as the API server would hold them."""
    made = decide(view, servers).create
    for pod in made:
        pod["metadata"] |= {"uid": pod["metadata"]["name"], "resourceVersion": "1"}
        pod["status"] = {"phase": "Pending"}
    return {pod["metadata"]["labels"][names.LABEL_SUBTASK]: pod for pod in made}


def pod_name(subtask: str, attempt: int) -> str:
    return pods.pod_name({"name": "job", "uid": "uid-1"}, subtask, attempt)


def conditions(decision: Decision) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in decision.status["conditions"]}


def test_every_subtask_gets_a_gated_pod_with_the_tracking_finalizer(
    dag: Object, make_view: Views, servers: dict[str, Server]
) -> None:
    pods = created(make_view(dag), servers)
    assert sorted(pods) == ["a-0", "b-0", "b-1"]
    for pod in pods.values():
        assert pod["metadata"]["finalizers"] == [names.FINALIZER]
        assert {"name": names.GATE} in pod["spec"]["schedulingGates"]
        assert pod["metadata"]["annotations"][names.ANNOTATION_ATTEMPT] == "1"


def test_only_what_depends_on_nothing_may_start(
    dag: Object, make_view: Views, servers: dict[str, Server]
) -> None:
    view = make_view(dag)
    pods = tuple(created(view, servers).values())
    waiting = decide(replace(view, pods=pods), servers).waiting
    assert [item.key for _, item in waiting] == ["default/job/a-0"]


def test_what_follows_starts_when_the_outcome_is_on_record(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    view = make_view(dag)
    pods = created(view, servers)
    pods["a-0"] = with_status(pods["a-0"], "Succeeded", "s1")
    first = decide(replace(view, pods=tuple(pods.values())), servers)
    assert first.status["completed"] == "0"
    assert first.strip == [], "an outcome is recorded before its pod is let go"
    assert first.waiting == []
    recorded = replace(view, manifest={**dag, "status": first.status}, pods=tuple(pods.values()))
    second = decide(recorded, servers)
    assert [pod["metadata"]["name"] for pod in second.strip] == [pod_name("a-0", 1)]
    assert sorted(item.key for _, item in second.waiting) == ["default/job/b-0", "default/job/b-1"]


def failed(**status: Any) -> Object:
    return {"phase": "Failed", **status}


OUT_OF_MEMORY = {
    "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]
}


def unstarted(message: str) -> Object:
    state = {"reason": "StartError", "exitCode": 128, "message": message}
    return {"containerStatuses": [{"state": {"terminated": state}}]}


TARGET = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}


@pytest.mark.parametrize(
    ("status", "reason", "free"),
    [
        pytest.param({"reason": "OutOfcpu"}, Reason.REJECTED_BY_NODE, True, id="kubelet refuses"),
        pytest.param({"reason": "NodeAffinity"}, Reason.REJECTED_BY_NODE, True, id="affinity"),
        pytest.param({"reason": "Evicted"}, Reason.DISRUPTED, True, id="evicted"),
        pytest.param(TARGET, Reason.DISRUPTED, True, id="disruption target"),
        pytest.param(OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, False, id="killed for memory"),
        pytest.param(
            unstarted("failed to start containerd task: context deadline exceeded"),
            Reason.NOT_STARTED,
            True,
            id="the node could not start it",
        ),
        pytest.param(
            unstarted('exec: "nope": executable file not found in $PATH'),
            Reason.ATTEMPT_FAILED,
            False,
            id="a command that is not there",
        ),
        pytest.param({}, Reason.ATTEMPT_FAILED, False, id="its own fault"),
    ],
)
def test_a_failure_is_recorded_by_its_class(
    dag: Object,
    make_view: Views,
    servers: dict[str, Server],
    with_status: Change,
    status: Object,
    reason: Reason,
    free: bool,
) -> None:
    view = make_view(dag)
    pods = created(view, servers)
    pods["a-0"] = with_status(pods["a-0"], "Failed", "s1", **status)
    decision = decide(replace(view, pods=tuple(pods.values())), servers)
    assert decision.record is not None
    assert decision.record.attempts == {"a-0": 2}
    assert (decision.record.retries, decision.record.failures) == (
        ({"a-0": 1}, {}) if free else ({}, {"a-0": 1})
    )
    assert decision.events[0][1] == str(reason)
    assert decision.create == [], "the attempt is recorded before its pod is created"
    assert ("s1" in decision.record.avoid["a-0"]) is True


def test_the_next_attempt_has_the_next_number_and_the_old_pod_goes(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    view = make_view(dag)
    old = with_status(created(view, servers)["a-0"], "Failed", "s1")
    again = make_view(dag, (old,), attempts={"a-0": 2}, failures={"a-0": 1})
    decision = decide(again, servers)
    names_ = [pod["metadata"]["name"] for pod in decision.create]
    assert pod_name("a-0", 2) in names_
    assert decision.strip == [old]
    fresh = next(p for p in decision.create if p["metadata"]["name"] == pod_name("a-0", 2))
    assert float(fresh["metadata"]["annotations"][names.ANNOTATION_NOT_BEFORE]) > NOW


def test_a_stale_success_does_not_count(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    old = with_status(created(make_view(dag), servers)["a-0"], "Succeeded", "s1")
    decision = decide(make_view(dag, (old,), attempts={"a-0": 2}), servers)
    assert decision.status["completed"] == ""


def test_a_succeeded_pod_that_was_deleted_meanwhile_is_not_run_again(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    view = make_view(dag)
    pods = created(view, servers)
    gone = with_status(pods["a-0"], "Succeeded", "s1")
    gone["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    decision = decide(replace(view, pods=(gone, pods["b-0"], pods["b-1"])), servers)
    assert decision.status["completed"] == "0"
    assert decision.record is None


def test_beyond_the_limit_the_job_has_failed(
    make_view: Views, servers: dict[str, Server], with_status: Change, dag: Object
) -> None:
    view = make_view(dag, attempts={"a-0": 4}, failures={"a-0": 3})
    pods = created(view, servers)
    pods["a-0"] = with_status(pods["a-0"], "Failed", "s1")
    decision = decide(replace(view, pods=tuple(pods.values())), servers)
    assert conditions(decision)["Failed"] == ("True", str(Reason.BACKOFF_LIMIT_EXCEEDED))
    ended = {**dag, "status": decision.status}
    assert reporting.finished(ended)
    last = decide(replace(view, manifest=ended, pods=tuple(pods.values())), servers)
    assert len(last.delete) == 2
    assert len(last.strip) == 3


@pytest.mark.parametrize(("retry", "lost"), [(False, False), (True, True)])
def test_a_template_on_a_lost_node_is_started_anew_only_if_told(
    make_view: Views,
    servers: dict[str, Server],
    with_status: Change,
    dag: Object,
    retry: bool,
    lost: bool,
) -> None:
    dag["spec"]["tasks"][0]["retryOnNodeLoss"] = retry
    view = make_view(dag)
    pods = created(view, servers)
    pods["a-0"] = with_status(pods["a-0"], "Running", "s1")
    pods["a-0"]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    down = {**servers, "s1": replace(servers["s1"], ready=False)}
    decision = decide(replace(view, pods=tuple(pods.values())), down)
    assert (decision.record is not None and decision.record.attempts.get("a-0") == 2) is lost
    without = {name: server for name, server in servers.items() if name != "s1"}
    decision = decide(replace(view, pods=tuple(pods.values())), without)
    assert decision.record is not None, "a node that is gone runs nothing"


def test_suspending_stops_the_pods_and_keeps_what_is_done(
    make_view: Views, servers: dict[str, Server], with_status: Change, dag: Object
) -> None:
    view = make_view(dag)
    pods = created(view, servers)
    pods["a-0"] = with_status(pods["a-0"], "Running", "s1")
    asleep = {**dag, "spec": {**dag["spec"], "suspend": True}}
    first = decide(replace(view, manifest=asleep, pods=tuple(pods.values())), servers)
    assert first.record is not None
    assert first.record.attempts == {"a-0": 2, "b-0": 2, "b-1": 2}
    second = decide(
        replace(view, manifest=asleep, record=first.record, pods=tuple(pods.values())), servers
    )
    assert len(second.delete) == 3
    assert second.create == []


def test_a_deadline_ends_the_job(make_view: Views, servers: dict[str, Server], dag: Object) -> None:
    dag["spec"]["activeDeadlineSeconds"] = 60
    dag["status"] = {"startTime": reporting.stamp(NOW - 61)}
    assert conditions(decide(make_view(dag), servers))["Failed"][1] == Reason.DEADLINE_EXCEEDED


def test_a_gated_pod_whose_server_is_cordoned_is_planned_anew(
    make_view: Views, servers: dict[str, Server], dag: Object
) -> None:
    view = make_view(dag)
    pods = created(view, servers)
    assert view.record is not None
    planned = view.record.plan.assignments[0].server
    cordoned = {**servers, planned: replace(servers[planned], schedulable=False)}
    decision = decide(replace(view, pods=tuple(pods.values())), cordoned)
    assert "a-0" in decision.replan
    assert decision.record is not None
    assert decision.record.retries["a-0"] == 1


def test_what_no_server_can_take_now_waits_and_loses_nothing(
    make_view: Views, servers: dict[str, Server], dag: Object
) -> None:
    """The planner was asked and refused: until the servers change there is nothing to do."""
    view = make_view(dag)
    pods = tuple(created(view, servers).values())
    cordoned = {name: replace(server, schedulable=False) for name, server in servers.items()}
    refusals = (Refusal("a", Reason.SERVER_CORDONED, "all are cordoned"),)
    for found in (pods, ()):
        decision = decide(replace(view, pods=found, refusals=refusals), cordoned)
        assert (decision.replan, decision.record, decision.create) == ({}, None, [])
        assert (decision.delete, decision.waiting, decision.events) == ([], [], [])
        assert conditions(decision)["Planned"] == ("False", "ServerCordoned")
        assert conditions(decision)["Failed"][0] == "False"


def test_a_finished_job_is_removed_after_its_time(
    make_view: Views, servers: dict[str, Server], dag: Object
) -> None:
    dag["spec"]["ttlSecondsAfterFinished"] = 10
    dag["status"] = {
        "conditions": [{"type": "Succeeded", "status": "True"}],
        "completionTime": reporting.stamp(NOW - 5),
    }
    view = View(dag, None, None, None, ())
    assert not decide(view, servers).remove
    assert decide(view, servers, NOW + 6).remove


def test_refusals_say_what_is_missing(dag: Object, servers: dict[str, Server]) -> None:
    from evenkeel_core import planning
    from evenkeel_kube import jobs

    dag["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["resources"]["requests"] = {
        "cpu": "9"
    }
    job = jobs.job(dag)
    refusals = planning.plan(job, list(servers.values())).refusals
    decision = decide(View(dag, job, None, None, (), refusals), servers)
    planned = next(c for c in decision.status["conditions"] if c["type"] == "Planned")
    assert (planned["status"], planned["reason"]) == ("False", str(Reason.INSUFFICIENT_RESOURCE))
    assert "binding resource cpu, missing 1000m" in planned["message"]


@pytest.mark.parametrize("numbers", [[], [0], [0, 1, 2, 3, 7], [5, 3, 4, 9, 10]])
def test_index_ranges_come_back(numbers: list[int]) -> None:
    assert statuses.indexes(reporting.ranges(numbers)) == set(numbers)


def test_the_stages_of_a_set_are_counted_each(
    make_view: Views, servers: dict[str, Server], dag: Object
) -> None:
    """Three subtasks of a pipeline are three, though they start and end together."""
    spec = {
        "model": {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"},
        "runtime": {"engine": "simulator"},
        "input": {"prompts": ["x"]},
        "parallelism": {"pipeline": 3, "data": 1},
    }
    counts = decide(make_view(dag | {"spec": spec}), servers).status["subtaskCounts"]
    assert counts == {"total": 3, "waiting": 3, "running": 0, "succeeded": 0, "failed": 0}


def released(pod: Object, at: float = NOW, **status: Any) -> Object:
    """Return a pod whose gate fell."""
    changed = {**pod, "spec": {**pod["spec"], "schedulingGates": []}}
    annotations = {**pod["metadata"]["annotations"], names.ANNOTATION_RELEASED: str(at)}
    changed["metadata"] = {**pod["metadata"], "annotations": annotations}
    return {**changed, "status": {"phase": "Pending", **status}}


TRIED = {"conditions": [{"type": "PodScheduled", "status": "False"}]}


@pytest.mark.parametrize(
    ("gates", "status", "anew"),
    [
        pytest.param([], TRIED, True, id="no server takes it"),
        pytest.param([], {}, False, id="no scheduler has looked"),
        pytest.param([{"name": "example.com/theirs"}], TRIED, False, id="another's gate holds it"),
    ],
)
def test_an_unbound_pod_is_planned_anew_only_where_that_helps(
    dag: Object,
    make_view: Views,
    servers: dict[str, Server],
    gates: list[Object],
    status: Object,
    anew: bool,
) -> None:
    view = make_view(dag)
    pods_ = created(view, servers)
    pods_["a-0"] = released(pods_["a-0"], NOW - 61, **status)
    pods_["a-0"]["spec"]["schedulingGates"] = gates
    decision = decide(replace(view, pods=tuple(pods_.values())), servers)
    assert bool(decision.record and decision.record.attempts) is anew


@pytest.mark.parametrize(
    ("reason", "seconds", "lost"),
    [
        ("ImagePullBackOff", 59, False),
        ("ImagePullBackOff", 61, True),
        ("ContainerCreating", 61, False),
        ("ContainerCreating", 601, True),
        ("PodInitializing", 9999, False),
    ],
)
def test_what_can_not_start_where_it_is_is_tried_elsewhere(
    dag: Object,
    make_view: Views,
    servers: dict[str, Server],
    reason: str,
    seconds: int,
    lost: bool,
) -> None:
    view = make_view(dag)
    pods_ = created(view, servers)
    waiting = {"state": {"waiting": {"reason": reason, "message": "as the kubelet says"}}}
    pods_["a-0"] = released(
        pods_["a-0"],
        startTime=reporting.stamp(NOW - seconds),
        containerStatuses=[waiting],
    )
    pods_["a-0"]["spec"]["nodeName"] = "s1"
    decision = decide(replace(view, pods=tuple(pods_.values())), servers)
    assert (decision.record is not None) is lost
    if lost:
        assert decision.record is not None
        assert decision.record.retries == {"a-0": 1}, "a free retry"
        assert decision.record.avoid == {"a-0": ["s1"]}
        assert reason in decision.events[0][2]
    else:
        assert conditions(decision)["Running"][0] == "False", "bound is not running"
        said = next(c["message"] for c in decision.status["conditions"] if c["type"] == "Running")
        assert reason in said or reason == "PodInitializing"
        assert decision.status["subtaskCounts"]["running"] == 0


def test_the_deadline_does_not_run_while_a_job_is_suspended(
    dag: Object, make_view: Views, servers: dict[str, Server]
) -> None:
    dag["spec"] |= {"activeDeadlineSeconds": 10, "suspend": True}
    dag["status"] = {"startTime": reporting.stamp(NOW - 100)}
    decision = decide(make_view(dag), servers)
    assert conditions(decision)["Failed"][0] == "False"
    assert decision.status["startTime"] is None, "it starts anew when the job is resumed"


def test_a_failed_job_does_not_run(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    dag["spec"]["backoffLimit"] = 0
    view = make_view(dag)
    pods_ = created(view, servers)
    pods_["a-0"] = with_status(pods_["a-0"], "Failed", "s1")
    pods_["b-0"] = with_status(pods_["b-0"], "Running", "s2")
    decision = decide(replace(view, pods=tuple(pods_.values())), servers)
    assert conditions(decision)["Failed"][0] == "True"
    assert conditions(decision)["Running"][0] == "False"
    assert decision.status["subtaskCounts"]["running"] == 0


@pytest.mark.parametrize(
    ("due", "steady", "anew"),
    [
        pytest.param(11, 1000, False, id="the node monitor may not have noticed"),
        pytest.param(61, 1000, True, id="ready all the time and gone for long"),
        pytest.param(1000, 5, False, id="back for a moment: its kubelet has not spoken"),
    ],
)
def test_a_deleted_template_pod_is_gone_only_when_its_server_was_there_all_the_time(
    dag: Object,
    make_view: Views,
    servers: dict[str, Server],
    with_status: Change,
    due: int,
    steady: int,
    anew: bool,
) -> None:
    view = replace(make_view(dag), steady={"s1": steady})
    pods_ = created(view, servers)
    pods_["a-0"] = with_status(pods_["a-0"], "Running", "s1")
    pods_["a-0"]["metadata"]["deletionTimestamp"] = reporting.stamp(NOW - due)
    decision = decide(replace(view, pods=tuple(pods_.values())), servers)
    assert bool(decision.record and decision.record.attempts) is anew


def test_a_template_killed_for_memory_is_not_given_more_than_its_user_wrote(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    view = make_view(dag)
    pods_ = created(view, servers)
    pods_["a-0"] = with_status(pods_["a-0"], "Failed", "s1", **OUT_OF_MEMORY)
    decision = decide(replace(view, pods=tuple(pods_.values())), servers)
    assert decision.record is not None
    assert decision.record.memory == {}


def test_what_was_killed_for_memory_asks_for_more_and_moves_where_it_no_longer_fits(
    dag: Object, make_view: Views, servers: dict[str, Server]
) -> None:
    spec = {
        "model": {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"},
        "runtime": {"engine": "simulator"},
        "parallelism": {"data": 1},
        "input": {"prompts": ["why"]},
    }
    manifest = {**dag, "spec": spec}
    (first,) = decide(make_view(manifest), servers).create
    (more,) = decide(make_view(manifest, memory={"batch": 1.25}), servers).create

    def asked(pod: Object) -> int:
        found = nodes.pod_demand(pod["spec"])[MEMORY]
        return int(found)

    assert asked(more) == int(asked(first) * 1.25)
    moved = decide(make_view(manifest, memory={"batch": 50.0}), servers)
    assert moved.create == []
    assert moved.record is not None
    assert moved.record.retries == {"batch-0": 1}, "no server can take it: planned anew, for free"


def test_why_a_command_could_not_be_run_is_said(
    dag: Object, make_view: Views, servers: dict[str, Server], with_status: Change
) -> None:
    view = make_view(dag)
    pods_ = created(view, servers)
    said = 'exec: "nope": executable file not found in $PATH'
    pods_["a-0"] = with_status(pods_["a-0"], "Failed", "s1", **unstarted(said))
    decision = decide(replace(view, pods=tuple(pods_.values())), servers)
    assert f"exit code 128, StartError: {said}" in decision.events[0][2]
