"""A claim keeps the pods that mount it where its volume is."""

from typing import Any

import pytest

from evenkeel_core.jobs import Expression
from evenkeel_kube import jobs, names, volumes
from evenkeel_kube.volumes import Storage

Object = dict[str, Any]


def job_manifest(*claims: str, affinity: Object | None = None) -> Object:
    pod: Object = {
        "containers": [{"name": "main", "image": "x"}],
        "volumes": [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims],
    }
    if affinity:
        pod["affinity"] = affinity
    task = {"name": "a", "estimatedSeconds": 1, "template": {"spec": pod}}
    metadata = {"name": "job", "namespace": "lab", "uid": "1"}
    metadata["creationTimestamp"] = "2027-01-15T08:00:00Z"
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": metadata,
        "spec": {"tasks": [task]},
    }


def claim(volume: str = "", mode: str = "ReadWriteMany", **annotations: str) -> Object:
    spec = {"accessModes": [mode], **({"volumeName": volume} if volume else {})}
    return {"metadata": {"annotations": annotations}, "spec": spec}


def selector(*nodes: str) -> Object:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}
    return {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}


def local(*nodes: str) -> Object:
    return {"spec": {"nodeAffinity": {"required": selector(*nodes)}}}


def host(*nodes: str) -> Expression:
    return Expression("kubernetes.io/hostname", "In", nodes)


def required(manifest: Object, storage: Storage) -> tuple[tuple[Expression, ...], ...]:
    found = volumes.confined(jobs.job(manifest), manifest, storage)
    return found.tasks[0].constraints.required


def test_a_volume_on_one_server_ties_the_task_to_it() -> None:
    storage = Storage({"lab/data": claim("disk")}, {"disk": local("s1")})
    assert required(job_manifest("data"), storage) == ((host("s1"),),)


def test_two_claims_must_both_be_reachable_and_so_must_the_users_terms_hold() -> None:
    storage = Storage(
        {"lab/one": claim("v1"), "lab/two": claim("v2")}, {"v1": local("s1"), "v2": local("s1")}
    )
    ours = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector("s1")}}
    assert required(job_manifest("one", "two", affinity=ours), storage) == ((host("s1"),) * 3,)


def test_what_is_not_bound_yet_is_free_until_a_node_is_chosen() -> None:
    free = Storage({"lab/data": claim()}, {})
    assert required(job_manifest("data"), free) == ()
    chosen = Storage({"lab/data": claim(**{volumes.SELECTED: "s2"})}, {})
    assert required(job_manifest("data"), chosen) == (
        (Expression("metadata.name", "In", ("s2",), field=True),),
    )


@pytest.mark.parametrize(
    ("mode", "phase", "tied"),
    [
        ("ReadWriteOnce", "Running", True),
        ("ReadWriteOnce", "Succeeded", False),
        ("ReadWriteMany", "Running", False),
    ],
)
def test_a_disk_that_one_node_can_attach_is_where_its_pod_is(
    mode: str, phase: str, tied: bool
) -> None:
    pod = {
        "metadata": {"namespace": "lab"},
        "spec": {"nodeName": "s3", "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]},
        "status": {"phase": phase},
    }
    storage = Storage({"lab/data": claim("disk", mode)}, {"disk": {"spec": {}}}, [pod])
    assert bool(required(job_manifest("data"), storage)) is tied


def test_claims_of_other_namespaces_and_none_at_all_change_nothing() -> None:
    storage = Storage({"other/data": claim("disk")}, {"disk": local("s1")})
    assert required(job_manifest("data"), storage) == ()
    assert required(job_manifest(), storage) == ()


@pytest.mark.parametrize("given", ["x", 3, [None], [{"persistentVolumeClaim": "x"}], [{"name": 1}]])
def test_malformed_volumes_mount_nothing(given: object) -> None:
    assert list(volumes.mounted({"volumes": given})) == []


def test_a_new_binding_shows() -> None:
    before = Storage({"lab/data": claim()}, {}).bindings()
    assert before != Storage({"lab/data": claim("disk")}, {}).bindings()
