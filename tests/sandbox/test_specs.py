"""The file that `kind` reads describes the sandbox's nodes, too."""

from pathlib import Path

import pytest
import yaml

from evenkeel_sandbox import specs
from evenkeel_sandbox.failures import SandboxError

ROOT = Path(__file__).parents[2]


def test_the_projects_own_file_has_two_labelled_workers() -> None:
    nodes = specs.read_kind_config(ROOT / specs.KIND_CONFIG)
    assert [node.name for node in nodes] == ["worker-1", "worker-2"]
    assert nodes[0].labels["topology.kubernetes.io/zone"] == "rack-a"


def test_labels_are_strings_whatever_yaml_makes_of_them() -> None:
    text = "kind: Cluster\nnodes: [{role: control-plane}, {role: worker, labels: {a: 1, b: true}}]"
    (node,) = specs.parse_kind_config(yaml.safe_load(text), "here")
    assert node.labels == {"a": "1", "b": "True"}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (None, "`kind` must be Cluster"),
        ({"kind": "Cluster", "nodes": 5}, "here: `nodes` must be a list of mappings"),
        ({"kind": "Cluster", "nodes": ["worker"]}, "here: `nodes` must be a list of mappings"),
        ({"kind": "Cluster", "nodes": {"role": "worker"}}, "here: `nodes` must be a list"),
        ({"kind": "Cluster", "nodes": [{"role": ["worker"]}]}, "exactly one control-plane"),
        ({"kind": "Pod"}, "`kind` must be Cluster"),
        ({"kind": "Cluster", "nodes": [{"role": "worker"}]}, "exactly one control-plane"),
        ({"kind": "Cluster", "nodes": [{"role": "control-plane"}] * 2}, "exactly one"),
        ({"kind": "Cluster", "nodes": [{"role": "control-plane"}, {"role": "x"}]}, "workers"),
        (
            {"kind": "Cluster", "nodes": [{"role": "control-plane"}] + [{"role": "worker"}] * 99},
            "at most",
        ),
        (
            {
                "kind": "Cluster",
                "nodes": [{"role": "control-plane"}, {"role": "worker", "labels": ["a"]}],
            },
            "labels",
        ),
    ],
)
def test_what_is_no_kind_configuration_is_refused(config: object, named: str) -> None:
    with pytest.raises(SandboxError, match=named):
        specs.parse_kind_config(config, "here")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"nowhere\.yaml"):
        specs.read_kind_config(tmp_path / "nowhere.yaml")


def test_no_lease_outlives_the_grace_period() -> None:
    assert all(timing.lease < timing.grace for timing in specs.TIMINGS.values())
    with pytest.raises(ValueError, match="`lease`"):
        specs.Timing(grace=6, lease=40, status=2, toleration=5)
