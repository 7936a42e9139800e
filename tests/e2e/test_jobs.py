"""Jobs on a real API server, scheduler and kubelets: from apply to their end."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from evenkeel_core import planning, verifying
from evenkeel_kube import jobs, names, nodes, statuses

if TYPE_CHECKING:
    from conftest import Rack

pytestmark = pytest.mark.sandbox
Object = dict[str, Any]


def planned(pod: Object) -> str:
    return str(pod["metadata"]["annotations"][names.ANNOTATION_SERVER])


def test_pods_land_where_they_were_planned(rack: "Rack", simulated: Callable[..., Object]) -> None:
    rack.apply("places", simulated(120, scale=2, parallelism={"data": 60}))
    rack.ends("places")
    pods = rack.pods("places")
    landed = sum(pod["spec"]["nodeName"] == planned(pod) for pod in pods)
    assert len(pods) == 60
    assert landed >= 0.95 * 60
    assert rack.job("places")["status"]["completed"] == "0-59"
    found = nodes.servers(rack.get("/api/v1/nodes")["items"])
    job = jobs.job(rack.job("places"))
    record = rack.record("places")
    assert record.plan.feasible
    made = planning.plan(job, found)
    assert verifying.verify(made, job, found) == ()
    rack.delete("places")


def test_a_job_runs_by_the_claims_own_matrix(
    rack: "Rack", simulated: Callable[..., Object]
) -> None:
    rack.apply("shares", simulated(12, scale=20, costModel="Shares", parallelism={"data": 6}))
    rack.ends("shares")
    plan = rack.record("shares").plan
    assert rack.job("shares")["spec"]["costModel"] == "Shares"
    assert len(plan.assignments) == 6
    rack.delete("shares")


def test_the_best_response_takes_what_was_filled_first(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    rack.nodes("filled", 3)
    with rack.paused("evenkeel-scheduler"):
        rack.apply("filled", simulated(2, parallelism={"data": 1}, **on("filled")))
        rack.wait(
            "the gate falls",
            lambda: any(not p["spec"].get("schedulingGates") for p in rack.pods("filled")),
        )
        (pod,) = rack.pods("filled")
        rack.stranger("filler", planned(pod), "7500m")
    job = rack.ends("filled")
    (pod,) = rack.pods("filled")
    assert pod["spec"]["nodeName"] != planned(pod)
    assert pod["spec"]["nodeName"].startswith("filled-")
    assert job["status"]["completed"] == "0"
    rack.delete("filled")
    rack.cluster.kubectl("delete", "pod", "filler", "--wait=false")


def test_twenty_times_the_rack_runs_in_waves(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    rack.nodes("waves", 2, memory="8Gi")
    rack.apply("waves", simulated(80, scale=200, parallelism={"data": 50}, **on("waves")))
    rack.ends("waves", seconds=120)
    pods = rack.pods("waves")
    asked = sum(nodes.pod_demand(pod["spec"])["memory"] for pod in pods)
    assert asked >= 20 * 2 * 0.9 * 8 * 2**30
    assert len(pods) == 50
    rack.delete("waves")


def template(command: str, **spec: Any) -> Object:
    container = {
        "name": "main",
        "image": "localhost/busybox:1",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}},
    }
    return {"spec": {"containers": [container], **spec}}


def test_tasks_run_on_real_kubelets_in_their_order(rack: "Rack") -> None:
    tasks = [
        {"name": "first", "template": template("echo one"), "estimatedSeconds": 1},
        {
            "name": "second",
            "template": template("echo shard $EVENKEEL_SHARD of $EVENKEEL_SHARDS"),
            "dependsOn": ["first"],
            "shards": 2,
            "estimatedSeconds": 1,
        },
    ]
    rack.apply("order", {"tasks": tasks})
    rack.ends("order")
    pods = {p["metadata"]["labels"][names.LABEL_SUBTASK]: p for p in rack.pods("order")}
    ended = pods["first-0"]["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    for number in (0, 1):
        pod = pods[f"second-{number}"]
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert state["startedAt"] >= ended
        assert pod["spec"]["nodeName"].startswith("worker-")
        log = rack.cluster.kubectl("logs", pod["metadata"]["name"])
        assert log == f"shard {number} of 2\n"
    rack.delete("order")


def test_a_claim_bound_by_its_first_consumer_draws_the_later_tasks_to_its_server(
    rack: "Rack",
) -> None:
    where = "kubernetes.io/hostname"
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "late"}
    documents: list[Object] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "late"},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "late"},
            "spec": {
                **common,
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": str(rack.cluster.volume("late"))},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": where, "operator": "In", "values": ["worker-2"]}
                                ]
                            }
                        ]
                    }
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "late", "namespace": "default"},
            "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}},
        },
    ]
    rack.cluster.volume("late").mkdir(parents=True)
    rack.cluster.kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}),
    )
    volumes = [{"name": "late", "persistentVolumeClaim": {"claimName": "late"}}]
    tasks = [
        {"name": name, "template": template("true", volumes=volumes), "estimatedSeconds": 1, **more}
        for name, more in (("first", {}), ("second", {"dependsOn": ["first"], "shards": 6}))
    ]
    rack.apply("late", {"tasks": tasks, "backoffLimit": 0})
    rack.ends("late", seconds=120)
    assert {pod["spec"]["nodeName"] for pod in rack.pods("late")} == {"worker-2"}
    assert rack.record("late").failures == {}
    rack.delete("late")


def test_a_failure_is_retried_and_then_is_the_jobs(rack: "Rack") -> None:
    rack.apply(
        "fails",
        {"tasks": [{"name": "bad", "template": template("exit 3")}], "backoffLimit": 1},
    )
    job = rack.ends("fails", "Failed")
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    assert condition["reason"] == "BackoffLimitExceeded"
    assert "exit code 3" in condition["message"]
    assert rack.record("fails").failures == {"bad-0": 2}
    rack.delete("fails")


def test_what_the_user_requires_is_multiplied_in(rack: "Rack") -> None:
    def term(key: str, value: str) -> Object:
        return {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}

    wanted = [term("kubernetes.io/hostname", "nowhere"), term("kubernetes.io/hostname", "worker-2")]
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": wanted}
        }
    }
    rack.apply("terms", {"tasks": [{"name": "t", "template": template("true", affinity=affinity)}]})
    rack.ends("terms")
    (pod,) = rack.pods("terms")
    assert pod["spec"]["nodeName"] == "worker-2"
    rack.delete("terms")


def test_what_can_not_be_placed_says_so_and_starts_when_a_server_appears(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    rack.nodes("late", 1, memory="2Gi")
    rack.apply("late", simulated(2, parallelism={"pipeline": 1}, **on("late")))
    rack.wait("refused", lambda: rack.condition("late", "Planned")["status"] == "False")
    condition = rack.condition("late", "Planned")
    assert condition["reason"] == "InsufficientResource"
    assert "binding resource memory, missing" in condition["message"]
    rack.nodes("late-too", 0)
    rack.cluster.kubectl("label", "node", "late-0", "small=true")
    big = rack.nodes("later", 1)
    rack.cluster.kubectl("label", "--overwrite", "node", *big, "test=late")
    job = rack.ends("late")
    assert rack.pods("late")[0]["spec"]["nodeName"] == big[0]
    assert statuses.indexes(job["status"]["completed"]) == {0}
    rack.delete("late")


def test_a_third_lost_at_the_kubelet_costs_no_backoff(
    rack: "Rack", simulated: Callable[..., Object]
) -> None:
    rack.apply("lost", simulated(60, scale=1, parallelism={"data": 30}, backoffLimit=0))
    hit: set[str] = set()

    def all_hit() -> bool:
        for pod in rack.pods("lost"):
            name = pod["metadata"]["name"]
            number = int(pod["metadata"]["labels"][names.LABEL_SUBTASK].rpartition("-")[2])
            live = pod["spec"].get("nodeName") and pod["status"]["phase"] == "Running"
            first = pod["metadata"]["annotations"][names.ANNOTATION_ATTEMPT] == "1"
            if number % 3 or not live or name in hit or not first:
                continue
            path = f"/api/v1/namespaces/default/pods/{name}/status"
            lost = {"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}
            kind = "application/merge-patch+json"
            rack.cluster.api.call("PATCH", path, {"status": lost}, kind)
            hit.add(name)
        return len(hit) == 10

    rack.wait("a third is lost", all_hit)
    rack.ends("lost")
    record = rack.record("lost")
    assert record.failures == {}
    assert sum(record.retries.values()) >= 10
    rack.delete("lost")


def test_suspending_stops_and_resuming_finishes(rack: "Rack") -> None:
    """The containers would run for much longer than their pods may take to vanish."""
    sleeping = template("sleep 40", terminationGracePeriodSeconds=1)
    tasks = [{"name": "t", "shards": 2, "template": sleeping, "estimatedSeconds": 40}]
    rack.apply("sleepy", {"tasks": tasks, "backoffLimit": 0})

    def run() -> list[Object]:
        return [p for p in rack.pods("sleepy") if p["status"].get("phase") == "Running"]

    def suspend(*, wanted: bool) -> None:
        patch = json.dumps({"spec": {"suspend": wanted}})
        rack.cluster.kubectl("patch", "ijob", "sleepy", "--type=merge", "-p", patch)

    rack.wait("both run", lambda: len(run()) == 2)
    stopped = {pod["metadata"]["uid"] for pod in run()}
    suspend(wanted=True)
    rack.wait("its pods vanish", lambda: rack.pods("sleepy") == [], 30)
    time.sleep(3)
    assert rack.pods("sleepy") == [], "nothing starts while it is suspended"
    assert not rack.job("sleepy")["status"].get("completed")
    suspend(wanted=False)
    rack.wait("both run again", lambda: len(run()) == 2)
    assert not stopped & {pod["metadata"]["uid"] for pod in run()}
    assert rack.ends("sleepy")["status"]["completed"] == "0-1"
    assert rack.record("sleepy").failures == {}
    rack.delete("sleepy")


def test_a_finished_job_goes_after_its_time_and_leaves_nothing(
    rack: "Rack", simulated: Callable[..., Object]
) -> None:
    rack.apply("brief", simulated(4, scale=100, ttlSecondsAfterFinished=1))
    uid = rack.job("brief")["metadata"]["uid"]
    selector = f"?labelSelector={names.LABEL_JOB_UID}%3D{uid}"

    def gone() -> bool:
        jobs_ = rack.get(f"/apis/{names.API_VERSION}/inferencejobs")["items"]
        left = [job for job in jobs_ if job["metadata"]["uid"] == uid]
        pods = rack.get(f"/api/v1/pods{selector}")["items"]
        records = rack.get(f"/api/v1/configmaps{selector}")["items"]
        return not (left or pods or records)

    rack.wait("nothing is left", gone, 60)


def test_a_deadline_ends_a_job_and_its_pods(rack: "Rack", simulated: Callable[..., Object]) -> None:
    rack.apply("slow", simulated(4, scale=0.01, activeDeadlineSeconds=3))
    rack.ends("slow", "Failed")
    assert rack.condition("slow", "Failed")["reason"] == "DeadlineExceeded"
    rack.wait(
        "its pods go",
        lambda: all(p["status"].get("phase") in ("Succeeded", "Failed") for p in rack.pods("slow")),
    )
    rack.delete("slow")


def test_a_cordoned_stage_moves_the_whole_set(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    rack.nodes("cordon", 4, memory="8Gi")
    spec = simulated(2, scale=100, parallelism={"pipeline": 2, "data": 1}, **on("cordon"))
    with rack.paused("evenkeel-scheduler"):
        rack.apply("cordon", spec)
        rack.wait(
            "both gates fall",
            lambda: sum(not p["spec"].get("schedulingGates") for p in rack.pods("cordon")) == 2,
        )
        lost = planned(rack.pods("cordon")[0])
        rack.cluster.kubectl("cordon", lost)
        rack.wait("it is planned anew", lambda: rack.record("cordon").attempts == {"batch-0": 2})
    rack.ends("cordon")
    for pod in rack.pods("cordon"):
        if pod["spec"].get("nodeName"):
            assert pod["spec"]["nodeName"] == planned(pod) != lost
    rack.delete("cordon")


def test_where_the_only_server_is_cordoned_the_rest_waits_for_it(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    """Nothing fails, no retry is spent and no event repeated, however long it takes."""
    rack.nodes("only", 1, memory="8Gi")
    rack.apply("only", simulated(6, scale=20, parallelism={"data": 6}, **on("only")))
    rack.wait(
        "some wait behind their gates",
        lambda: (
            any(p["status"].get("phase") == "Running" for p in rack.pods("only"))
            and any(p["spec"].get("schedulingGates") for p in rack.pods("only"))
        ),
    )
    rack.cluster.kubectl("cordon", "only-0")
    rack.wait("no server is left", lambda: rack.condition("only", "Planned")["status"] == "False")
    held = rack.record("only")
    time.sleep(5)
    assert rack.record("only") == held
    assert rack.condition("only", "Failed")["status"] == "False"
    rack.cluster.kubectl("uncordon", "only-0")
    rack.ends("only")
    rack.delete("only")


def test_killed_half_way_it_goes_on_with_the_same_plan(
    rack: "Rack", simulated: Callable[..., Object]
) -> None:
    lines = "\n".join(json.dumps({"prompt": "x" * 100, "max_tokens": 20}) for _ in range(2000))
    text = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "many", "namespace": "default"},
        "data": {"requests.jsonl": lines},
    }
    rack.cluster.api.create("/api/v1/namespaces/default/configmaps", text)
    spec = simulated(1, scale=1000, parallelism={"data": 2000}, suspend=False)
    spec["input"] = {"configMapRef": {"name": "many"}}
    rack.apply("many", spec)
    rack.wait("half of the pods are there", lambda: _count(rack, "many") > 600, 60)
    with rack.paused("evenkeel-operator"):
        before = {a.subtask: a.server for a in rack.record("many").plan.assignments}
    rack.wait("all pods are there", lambda: _count(rack, "many") == 2000, 180)
    pods = rack.pods("many")
    first = [p for p in pods if p["metadata"]["annotations"][names.ANNOTATION_ATTEMPT] == "1"]
    assert len(first) >= 1990
    for pod in first:
        assert planned(pod) == before[pod["metadata"]["labels"][names.LABEL_SUBTASK]]
    rack.delete("many")
    rack.wait("they are gone", lambda: _left(rack) == 0, 180)


def _count(rack: "Rack", job: str) -> int:
    return len(rack.pods(job))


def _left(rack: "Rack") -> int:
    found = rack.get(f"/api/v1/pods?labelSelector={names.LABEL_JOB}%3Dmany&limit=1")["items"]
    return len(found)


def test_a_deviation_is_explained(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    """What `evenkeel explain` and the extender say of a pod agrees with where it went."""
    rack.nodes("told", 3)
    with rack.paused("evenkeel-scheduler"):
        rack.apply("told", simulated(2, scale=0.05, parallelism={"data": 1}, **on("told")))
        rack.wait(
            "the gate falls",
            lambda: any(not p["spec"].get("schedulingGates") for p in rack.pods("told")),
        )
        (pod,) = rack.pods("told")
        rack.stranger("told-stranger", planned(pod), "7500m")
    rack.wait("it is bound", lambda: bool(rack.pods("told")[0]["spec"].get("nodeName")))
    (pod,) = rack.pods("told")
    port = rack.cluster.state.ports["evenkeel-extender"]
    url = f"http://127.0.0.1:{port}/explain/default/{pod['metadata']['name']}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        told = json.load(answer)
    refused = {row["server"]: row["refused"] for row in told["servers"]}
    assert refused[planned(pod)] in ("InsufficientResource", "Busy")
    possible = [row["server"] for row in told["servers"] if row["refused"] is None]
    assert possible[0] == pod["spec"]["nodeName"], "the best response took it"
    said = subprocess.run(
        [sys.executable, "-m", "evenkeel_cli.main", "explain", "told", "--output", "json",
         "--kubeconfig", str(rack.cluster.kubeconfig)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    (deviation,) = json.loads(said.stdout)["deviations"]
    assert deviation["plannedServer"] == planned(pod)
    assert deviation["server"] == pod["spec"]["nodeName"]
    assert "Busy" in deviation["why"]
    assert "held by told-stranger" in deviation["why"]
    rack.delete("told")
    rack.cluster.kubectl("delete", "pod", "told-stranger", "--wait=false")


def test_a_stream_of_small_jobs_does_not_starve_a_pipeline(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    """The pipeline needs both nodes whole; small jobs keep coming and each would fit one."""
    rack.nodes("stream", 2, memory="8Gi")
    small = simulated(1, scale=10, parallelism={"data": 1}, **on("stream"))
    for number in range(4):
        rack.create(f"stream-{number}", small)
    rack.wait("they run", lambda: rack.condition("stream-0", "Running")["status"] == "True")
    rack.create("whole", simulated(1, scale=10, parallelism={"pipeline": 2}, **on("stream")))
    began = time.monotonic()
    number = 4
    while rack.condition("whole", "Running")["status"] != "True":
        waited = time.monotonic() - began
        # Four small jobs of about 14 s at scale 10 on two nodes, and a second for each pass.
        assert waited < 60, f"the pipeline has waited {waited:.0f} s"
        rack.create(f"stream-{number}", small)
        number += 1
        time.sleep(1)
    rack.ends("whole")
    for job in range(number):
        rack.delete(f"stream-{job}")
    rack.delete("whole")
