"""Every document finds its place in the API."""

from pathlib import Path

import pytest

from evenkeel_sandbox import manifests
from evenkeel_sandbox.failures import SandboxError


@pytest.mark.parametrize(
    ("version", "kind", "path"),
    [
        ("v1", "Node", "/api/v1/nodes/x"),
        ("v1", "Pod", "/api/v1/namespaces/default/pods/x"),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/x",
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/x",
        ),
        ("scheduling.k8s.io/v1", "PriorityClass", "/apis/scheduling.k8s.io/v1/priorityclasses/x"),
    ],
)
def test_paths(version: str, kind: str, path: str) -> None:
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}
    assert manifests.path(document) == path


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(SandboxError, match=r"x\.yaml"):
        manifests.load(tmp_path / "x.yaml")
