"""Servers files: the short form, Nodes and profiles; what is wrong is named."""

from pathlib import Path

import pytest

from evenkeel_core.efficiencies import Efficiency, Setting, estimate
from evenkeel_core.quantities import CPU, GIB, MEMORY
from evenkeel_kube import racks

ROOT = Path(__file__).parents[2]


def test_the_example_is_a_mixed_rack() -> None:
    found = racks.read((ROOT / "examples" / "servers.yaml").read_text(encoding="utf-8")).servers()
    devices = {device.name for server in found for device in server.accelerators}
    assert len(found) == 52
    assert {"H100-PCIE-80GB", "MI210", "RTX-4090", "L4", "T4"} <= devices
    assert all(device.confidence >= 0.5 for s in found for device in s.devices)
    # None of them holds the 141 GB of a 70B model in 16 bits.
    assert all(sum(d.memory * d.count for d in s.accelerators) < 141e9 for s in found)
    assert all(server.plannable[MEMORY] < 141e9 for server in found)


SHORT = """
- name: a
  replicas: 2
  cpu: 32
  memory: 128Gi
  processor: EPYC-7763
  gpus: {product: L4, count: 2}
  disk: 2Ti
  diskGigabytesPerSecond: 3
  linkGigabits: 10
  linkMilliseconds: 0.1
  labels: {site: east}
  taints: [{key: gpu, value: "yes"}]
  models: [llama.gguf]
"""


def test_the_short_form_says_all_of_it() -> None:
    first, second = racks.read(SHORT).servers()
    assert (first.name, second.name) == ("a-1", "a-2")
    assert first.allocatable[CPU] == 32_000
    assert first.allocatable[MEMORY] == 128 * GIB
    assert first.allocatable["nvidia.com/gpu"] == 2
    assert (first.accelerators[0].name, first.accelerators[0].count) == ("L4", 2)
    assert first.processors.name == "EPYC-7763"
    assert (first.link_bandwidth, first.link_latency) == (1.25e9, 0.0001)
    assert first.load_bandwidth == 3e9
    assert first.labels["site"] == "east"
    assert (first.taints[0].key, first.taints[0].effect) == ("gpu", "NoSchedule")
    assert first.models == {"llama.gguf"}


def test_the_short_form_carries_what_was_learnt() -> None:
    learnt = """
- name: a
  cpu: 8
  memory: 32Gi
  gpus: {product: L4}
  calibration:
  - {model: m.gguf, engine: vllm, compute: 0.4, memory: 0.7, layerSeconds: 1.0e-5,
     uncertainty: 0.1, samples: 3}
- {name: b, cpu: 8, memory: 32Gi, gpus: {product: L4}}
"""
    first, second = racks.read(learnt).servers()
    setting = Setting("m.gguf", "vllm", "L4")
    assert first.calibration[setting] == estimate(Efficiency(0.4, 0.7, 1e-5), (0.1, 0.1, 0.1), 3)
    # The other L4 is lent it, less sure.
    lent = second.calibration[setting]
    assert lent.efficiency.compute == pytest.approx(0.4)
    assert lent.uncertainty > first.calibration[setting].uncertainty


NODE = """
kind: Node
metadata: {name: b, labels: {nvidia.com/gpu.product: NVIDIA-L4}}
status: {allocatable: {cpu: "8", memory: 32Gi, nvidia.com/gpu: "1"}}
"""
PROFILE = """
kind: ServerProfile
metadata: {name: b}
spec: {overrides: {linkBandwidth: 5.0e+9}}
"""


def test_nodes_and_profiles_are_read_beside_it() -> None:
    found = racks.read(f"{SHORT}---{NODE}---{PROFILE}").servers()
    assert [server.name for server in found] == ["a-1", "a-2", "b"]
    assert found[2].link_bandwidth == 5e9
    assert found[2].accelerators[0].name == "L4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no server in it"),
        ("a: [", "no YAML"),
        ("- 3", r"servers\[0\]: must be a mapping"),
        ("- {cpu: 1, memory: 1Gi}", r"servers\[0\]: name: field required"),
        ("- {name: a, memory: 1Gi}", "a: cpu is missing"),
        ("- {name: a, cpu: .nan, memory: 1Gi}", "a: cpu: `nan` is not a quantity"),
        ("- {name: a, cpu: -1, memory: 1Gi}", "a: cpu: `-1` is negative"),
        ("- {name: a, cpu: yes, memory: 1Gi}", "a: cpu: "),
        ("- {name: a, cpu: 1, memory: 1Gi, color: red}", "a: color is no field of a server"),
        ("- {name: A_, cpu: 1, memory: 1Gi}", "A_: name: "),
        ("- {name: a, cpu: 1, memory: 1Gi, gpus: {product: Abacus}}", "gpus.product: Abacus"),
        ("- {name: a, cpu: 1, memory: 1Gi, gpus: {product: EPYC-7763}}", "is a processor"),
        ("- {name: a, cpu: 1, memory: 1Gi, gpus: {product: L4, count: 0}}", "gpus.count"),
        ("- {name: a, cpu: 1, memory: 1Gi, taints: [{key: a, effect: Never}]}", "taints.0.effect"),
        ("- {name: a, cpu: 1, memory: 1Gi}\n- {name: a, cpu: 1, memory: 1Gi}", "two servers"),
        (
            "- {name: a, cpu: 1, memory: 1Gi, taints: [{key: a, colour: red}]}",
            "a: taints.0.colour is no field of a server; there are effect, key, value",
        ),
        (
            "- {name: a, cpu: 1, memory: 1Gi, calibration: [{compute: 1.2, model: m, engine: e}]}",
            r"a: calibration\.0\.compute: input should be less than or equal to 1",
        ),
        ("kind: Pod\nmetadata: {name: a}", "kind must be Node or ServerProfile"),
        ("kind: Node\nmetadata: {}", "metadata.name is missing"),
        ("kind: Node\nmetadata: {name: a}", r"status\.allocatable\.cpu is missing"),
        ("kind: Node\nmetadata: {name: a}\nstatus: 5", "a: status: input should be"),
        ("kind: Node\nmetadata: {name: a, labels: 3}", r"a: metadata\.labels"),
        ("kind: Node\nmetadata: {name: a}\nspec: {taints: [3]}", r"a: spec\.taints\.0"),
        (f"{NODE}---{PROFILE.replace('5.0e+9', '-1')}", r"b: spec\.overrides\.linkBandwidth"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(racks.InvalidServers, match=said):
        racks.read(text)
