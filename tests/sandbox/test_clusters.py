"""A real cluster: pods run, are seen and reached, on real nodes and on simulated ones."""

import datetime as dt
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.simulated import SimulatedNode
from evenkeel_sandbox.specs import ClusterSpec

pytestmark = pytest.mark.sandbox

_EVERYWHERE = [{"operator": "Exists"}]


def _pod(name: str, node: str, command: str = "", **metadata: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "localhost/busybox:1", "command": ["sh", "-c", command]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": _EVERYWHERE,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        },
    }


def _get(cluster: Cluster, name: str) -> dict[str, Any]:
    pod: dict[str, Any] = cluster.api.get(f"/api/v1/namespaces/default/pods/{name}")
    return pod


def _wait_phase(cluster: Cluster, name: str, *phases: str) -> dict[str, Any]:
    cluster.wait(f"{name} {phases}", lambda: _get(cluster, name)["status"]["phase"] in phases, 30)
    return _get(cluster, name)


def _gone(cluster: Cluster, name: str) -> bool:
    pods = cluster.api.get("/api/v1/namespaces/default/pods")["items"]
    return name not in [pod["metadata"]["name"] for pod in pods]


def test_every_node_is_ready_and_labelled(cluster: Cluster) -> None:
    nodes = {node["metadata"]["name"]: node for node in cluster.api.get("/api/v1/nodes")["items"]}
    assert cluster.unready() == []
    assert {"worker-1", "worker-2", "sim-0001", "sim-0006"} <= set(nodes)
    assert nodes["worker-1"]["metadata"]["labels"]["evenkeel.dev/pool"] == "real"
    assert nodes["sim-0001"]["status"]["allocatable"]["nvidia.com/gpu"] == "8"


def test_a_pod_on_a_real_node_is_seen_and_reached(cluster: Cluster) -> None:
    serve = "echo started; mkdir /www; echo served > /www/index.html; httpd -f -p 8080 -h /www"
    cluster.apply([_pod("web", "worker-1", serve), _pod("other", "worker-2", "sleep 60")])
    address = _wait_phase(cluster, "web", "Running")["status"]["podIP"]
    _wait_phase(cluster, "other", "Running")
    assert cluster.kubectl("logs", "web") == "started\n"
    assert cluster.kubectl("exec", "-i", "web", "--", "cat", stdin="in and out") == "in and out"
    # From a pod of the other node, over the routes between them.
    fetched = cluster.kubectl("exec", "other", "--", "wget", "-qO-", f"http://{address}:8080/")
    assert fetched == "served\n"
    assert _through_port_forward(cluster, "web") == b"served\n"
    cluster.kubectl("delete", "pod", "web", "other", "--wait=false")
    cluster.wait("both gone", lambda: _gone(cluster, "web") and _gone(cluster, "other"), 30)


def _through_port_forward(cluster: Cluster, pod: str) -> bytes:
    argv = [cluster.state.binaries["kubectl"], f"--kubeconfig={cluster.kubeconfig}"]
    argv += ["port-forward", f"pod/{pod}", ":8080"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout
        port = forward.stdout.readline().split(" -> ")[0].rpartition(":")[2]
        open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        try:
            with open_url(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                body: bytes = answer.read()
                return body
        finally:
            forward.kill()


def test_the_simulator_runs_in_a_container(cluster: Cluster) -> None:
    pod = _pod("simulator", "worker-2")
    pod["spec"]["containers"][0] |= {
        "image": "localhost/evenkeel/simulator:dev",
        "command": ["python3", "-m", "evenkeel_node.simulating"],
        "env": [{"name": "EVENKEEL_RUN_SECONDS", "value": "1"}],
    }
    cluster.apply([pod])
    ended = _wait_phase(cluster, "simulator", "Succeeded", "Failed")
    assert ended["status"]["phase"] == "Succeeded", cluster.kubectl("logs", "simulator")


def test_a_simulated_pod_runs_as_long_as_it_says(cluster: Cluster) -> None:
    annotations = {"evenkeel.dev/run-seconds": "2.5"}
    cluster.apply([_pod("timed", "sim-0003", annotations=annotations)])
    _wait_phase(cluster, "timed", "Running")
    began = time.monotonic()
    # A change of the pod while it runs must not start its time anew.
    time.sleep(1.0)
    cluster.kubectl("annotate", "pod", "timed", "touched=yes")
    pod = _wait_phase(cluster, "timed", "Succeeded", "Failed")
    assert 1.8 < time.monotonic() - began < 3.2
    state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (pod["status"]["phase"], state["exitCode"]) == ("Succeeded", 0)
    start, end = (dt.datetime.fromisoformat(state[key]) for key in ("startedAt", "finishedAt"))
    assert 2 <= (end - start).total_seconds() <= 3


@pytest.mark.parametrize(("reason", "code"), [("Error", 1), ("OOMKilled", 137)])
def test_a_simulated_pod_fails_on_demand(cluster: Cluster, reason: str, code: int) -> None:
    name = f"failing-{code}"
    annotations = {"evenkeel.dev/run-seconds": "0.2", "evenkeel.dev/simulated-failure": reason}
    cluster.apply([_pod(name, "sim-0002", annotations=annotations)])
    status = _wait_phase(cluster, name, "Succeeded", "Failed")["status"]
    state = status["containerStatuses"][0]["state"]["terminated"]
    assert (status["phase"], state["reason"], state["exitCode"]) == ("Failed", reason, code)


def test_a_deleted_simulated_pod_waits_for_its_finalizer(cluster: Cluster) -> None:
    cluster.apply([_pod("tracked", "sim-0001", finalizers=["evenkeel.dev/tracking"])])
    cluster.apply([_pod("free", "sim-0001")])
    _wait_phase(cluster, "tracked", "Running")
    _wait_phase(cluster, "free", "Running")
    cluster.kubectl("delete", "pod", "tracked", "free", "--wait=false")
    cluster.wait("the free pod gone", lambda: _gone(cluster, "free"), 10)
    _wait_phase(cluster, "tracked", "Failed")
    assert not _gone(cluster, "tracked")
    nobody = '{"metadata":{"finalizers":null}}'
    cluster.kubectl("patch", "pod", "tracked", "--type=merge", f"--patch={nobody}")
    cluster.wait("the tracked pod gone", lambda: _gone(cluster, "tracked"), 10)


def test_pods_that_do_not_ask_for_it_stay_off_simulated_nodes(cluster: Cluster) -> None:
    pod = _pod("plain", "sim-0001")
    del pod["spec"]["tolerations"]
    cluster.apply([pod])
    time.sleep(1)
    assert "nodeName" not in _get(cluster, "plain")["spec"]
    cluster.kubectl("delete", "pod", "plain")


def test_nodes_come_and_go(cluster: Cluster) -> None:
    cluster.add_simulated([SimulatedNode("late", {"cpu": "4", "memory": "8Gi"})])
    cluster.wait("late Ready", lambda: cluster.unready() == [], 20)
    cluster.remove_node("late")
    names = [node["metadata"]["name"] for node in cluster.api.get("/api/v1/nodes")["items"]]
    assert "late" not in names


def test_pods_outlive_kubelet_and_runtime(cluster: Cluster) -> None:
    cluster.apply([_pod("steady", "worker-1", "sleep 300")])
    before = _wait_phase(cluster, "steady", "Running")["status"]["containerStatuses"][0]
    for process in ("worker-1/kubelet", "worker-1/containerd"):
        pid = cluster.pid(process)
        cluster.kill(process)
        assert cluster.pid(process) is None
        cluster.restart(process)
        assert cluster.pid(process) not in (None, pid)
        cluster.wait("exec again", lambda: "yes" in _echo(cluster, "steady"), 30)
    after = _get(cluster, "steady")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)


def _echo(cluster: Cluster, pod: str) -> str:
    try:
        return cluster.kubectl("exec", pod, "--", "echo", "yes")
    except SandboxError:
        return ""


def test_a_frozen_node_is_missed_and_comes_back(cluster: Cluster) -> None:
    cluster.freeze("worker-2")
    began = time.monotonic()
    cluster.wait("worker-2 missed", lambda: cluster.unready() == ["worker-2"], 30)
    assert time.monotonic() - began < 15
    cluster.thaw("worker-2")
    cluster.wait("worker-2 back", lambda: cluster.unready() == [], 30)


def test_a_node_that_lost_power_comes_back(cluster: Cluster) -> None:
    cluster.apply([_pod("unlucky", "worker-2", "sleep 300")])
    _wait_phase(cluster, "unlucky", "Running")
    cluster.power_off("worker-2")
    assert cluster.pid("worker-2/kubelet") is None
    cluster.wait("worker-2 missed", lambda: cluster.unready() == ["worker-2"], 30)
    cluster.power_on("worker-2")
    cluster.wait("worker-2 back", lambda: cluster.unready() == [], 30)
    cluster.apply([_pod("next", "worker-2", "echo runs")])
    _wait_phase(cluster, "next", "Succeeded")


READ = {"get", "list", "watch"}
NEEDED = {
    "evenkeel-operator": {
        "evenkeel.dev/inferencejobs": READ | {"delete"},  # follows them, ends their time
        "evenkeel.dev/inferencejobs/status": {"patch"},
        "evenkeel.dev/inferencejobs/finalizers": {"update"},  # owner references that block
        "evenkeel.dev/serverprofiles": READ,
        "/pods": READ | {"create", "patch", "delete"},
        "/configmaps": READ | {"create", "update"},  # plans on record
        "/nodes": READ,
        "/persistentvolumeclaims": READ,
        "/persistentvolumes": READ,
        "scheduling.k8s.io/priorityclasses": READ,
        "/events": {"create"},
    },
    "evenkeel-extender": {
        "evenkeel.dev/serverprofiles": READ,
        "/pods": READ,
        "/nodes": READ,
        "/configmaps": READ,
    },
}
"""What each may do in any namespace, with nothing left out."""
LEASE = {"coordination.k8s.io/leases": {"get", "create", "update"}}
"""What the operator may do beside in its own namespace."""


def _granted(cluster: Cluster, user: str, namespace: str) -> dict[str, set[str]]:
    """Return what a user may do, as the API server judges it, by resource."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    said = cluster.kubectl(
        "create",
        "--validate=false",
        "-f",
        "-",
        "-o",
        "json",
        f"--as={user}",
        stdin=json.dumps(review),
    )
    found: dict[str, set[str]] = {}
    for rule in json.loads(said)["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("namespace", ["default", "evenkeel-system"])
@pytest.mark.parametrize("user", sorted(NEEDED))
def test_the_roles_of_evenkeel_are_what_it_needs_and_no_more(
    cluster: Cluster, user: str, namespace: str
) -> None:
    own = user == "evenkeel-operator" and namespace == "evenkeel-system"
    needed = {**NEEDED[user], **(LEASE if own else {})}
    everybodys = _granted(cluster, "nobody", namespace)
    granted = _granted(cluster, user, namespace)
    beyond = {
        resource: verbs - everybodys.get(resource, set()) for resource, verbs in granted.items()
    }
    assert {resource: verbs for resource, verbs in beyond.items() if verbs} == needed


def test_up_again_returns_the_running_one(cluster: Cluster, real_spec: ClusterSpec) -> None:
    before = cluster.pid("etcd")
    assert Cluster.up(cluster.state.name, real_spec).pid("etcd") == before


def test_a_workspace_is_shared_between_real_nodes(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(cluster.workspace("shared")))
    claim = {"name": "w", "persistentVolumeClaim": {"claimName": "shared"}}
    pods = [
        _pod("writer", "worker-1", "echo kept > /workspace/note"),
        _pod("reader", "worker-2", "until cat /workspace/note; do sleep 0.1; done"),
    ]
    for pod in pods:
        pod["spec"]["volumes"] = [claim]
        mount = {"name": "w", "mountPath": "/workspace"}
        pod["spec"]["containers"][0]["volumeMounts"] = [mount]
    cluster.apply(pods)
    _wait_phase(cluster, "reader", "Succeeded")
    assert "kept" in cluster.kubectl("logs", "reader")


def test_two_sandboxes_live_side_by_side(
    cluster: Cluster, real_spec: ClusterSpec, sandbox_name: Callable[[str], str]
) -> None:
    second = Cluster.up(sandbox_name("b"), real_spec)
    assert second.state.network != cluster.state.network
    assert not set(second.state.ports.values()) & set(cluster.state.ports.values())
    for each in (cluster, second):
        each.apply([_pod("beside", "worker-1", f"echo {each.state.name}")])
    for each in (cluster, second):
        _wait_phase(each, "beside", "Succeeded")
        assert each.kubectl("logs", "beside").strip() == each.state.name
    second.down()
    assert cluster.unready() == []
