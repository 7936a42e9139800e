"""The shipped tables are read right: sizes agree with the published ones."""

import csv
from importlib.resources import files

import pytest

from evenkeel_core import facts
from evenkeel_core.models import from_config

TABLE = files("evenkeel_core.facts").joinpath("models.csv").read_text()
ROWS = list(csv.DictReader(TABLE.splitlines()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_parameter_counts_agree_with_the_table(row: dict[str, str]) -> None:
    model = from_config(row, name=row["model"], bits=8)
    embedding = model.embedding_bytes
    total = model.layers * model.layer_parameters + embedding + model.head_bytes
    active = model.layers * model.active_layer_parameters + embedding + model.head_bytes
    assert total / 1e9 == pytest.approx(float(row["params_b_computed"]), rel=0.005)
    assert active / 1e9 == pytest.approx(float(row["active_params_b_computed"]), rel=0.02)
    cached = model.layers * model.kv_bytes_per_token
    assert cached == int(row["kv_bytes_per_token_16bit"])


@pytest.mark.parametrize(
    ("name", "model", "gigabytes"),
    [
        # Sizes of the published files, in 10^9 bytes.
        ("file://llama-3.1-8b-instruct-q4_k_m.gguf", "Llama-3.1-8B", 4.92),
        ("Llama-3.3-70B-Instruct-Q4_K_M.gguf", "Llama-3.3-70B-Instruct", 42.5),
        ("meta-llama/Meta-Llama-3.1-8B", "Llama-3.1-8B", 16.07),
        ("pvc://models/mixtral-8x7b-v0.1.q8_0.gguf", "Mixtral-8x7B-v0.1", 49.6),
    ],
)
def test_a_name_is_understood(name: str, model: str, gigabytes: float) -> None:
    found = facts.model(name)
    assert found is not None
    assert found.name == model
    assert found.bytes / 1e9 == pytest.approx(gigabytes, rel=0.03)


@pytest.mark.parametrize("name", ["file://unheard-of-9b.gguf", "", "llama-3.1-80b"])
def test_an_unknown_name_is_none(name: str) -> None:
    assert facts.model(name) is None


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("Tesla-T4", "T4"),
        ("Tesla-T4-SHARED", "T4"),
        ("NVIDIA-L4-SHARED", "L4"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "H100-SXM-80GB"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("910B3", "Ascend-910B"),
        ("EPYC-9654", "EPYC-9654"),
    ],
)
def test_a_label_finds_its_device(label: str, name: str) -> None:
    row = facts.device(label)
    assert row is not None
    assert row["name"] == name


@pytest.mark.parametrize(
    "label",
    ["Quantum-Abacus-9000", "NVIDIA-T400-4GB", "NVIDIA-L40", "NVIDIA-A100X", "", "Übung", "²"],
)
def test_an_unknown_label_finds_nothing(label: str) -> None:
    assert facts.device(label) is None


def test_a_config_without_layers_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"config\.num_hidden_layers"):
        from_config({"hidden_size": 64}, name="x", bits=16)
