"""Kubernetes documents: read from files, and where in the API each belongs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evenkeel_sandbox.failures import SandboxError

_CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "RuntimeClass",
    "ServerProfile",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def load(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file, empty ones left out."""
    try:
        return [document for document in yaml.safe_load_all(path.read_text()) if document]
    except (OSError, yaml.YAMLError) as error:
        raise SandboxError(f"cannot read {path}: {error}") from error


def path(document: Mapping[str, Any]) -> str:
    """Return the object's path in the API, for the kinds whose plural is regular or known."""
    version, kind = document["apiVersion"], document["kind"]
    plural = f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"
    plural = f"{kind.lower()}es" if kind.endswith("ss") else plural
    metadata = document["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if kind not in _CLUSTER_SCOPED:
        root += f"/namespaces/{metadata.get('namespace', 'default')}"
    return f"{root}/{plural}/{metadata['name']}"
