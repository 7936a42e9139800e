"""The facts the package ships: shapes of models, figures of devices, sizes of quantisations.

Two tables, each row with its sources: ``models.csv`` and ``accelerators.csv``. They serve where
a model's file or a server's probe has not spoken yet.
"""

import csv
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from evenkeel_core.models import Model, from_config
from evenkeel_core.quantities import Bytes

BITS_PER_WEIGHT: Mapping[str, float] = {
    # Block sizes of the gguf package's constants.
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "FP8": 8.0, "Q8_0": 8.5, "Q6_K": 6.5625,
    "Q5_0": 5.5, "Q5_1": 6.0, "Q4_0": 4.5, "Q4_1": 5.0, "IQ4_NL": 4.5, "IQ4_XS": 4.25,
    "MXFP4": 4.25, "AWQ": 4.25, "GPTQ": 4.25, "NVFP4": 4.5, "IQ3_S": 3.4375, "IQ3_XXS": 3.0625,
    "IQ2_S": 2.5625, "IQ2_XS": 2.3125, "IQ2_XXS": 2.0625, "IQ1_M": 1.75, "IQ1_S": 1.5625,
    "TQ1_0": 1.6875, "TQ2_0": 2.0625,
    # Named mixes put some tensors in a wider type: llama.cpp's quantize tool, Llama-3.1-8B.
    "Q5_K_M": 5.7036, "Q5_K_S": 5.5704, "Q4_K_M": 4.8944, "Q4_K_S": 4.6672,
    "Q3_K_L": 4.2979, "Q3_K_M": 3.9960, "Q3_K_S": 3.6429, "Q2_K": 3.1593,
}  # fmt: skip
TABLE = "the name table"
"""Where the facts of a model come from that only its name told."""
DEFAULT_QUANTIZATION = "F16"
"""Of a model whose name says nothing: what most weights are published in."""

UNKNOWN_ACCELERATOR_FLOPS = 60e12
UNKNOWN_ACCELERATOR_BANDWIDTH = 300e9
"""The weakest accelerator of the table (T4, L4), so that unknown hardware is not overrated."""
UNKNOWN_ACCELERATOR_MEMORY = Bytes(8 * 2**30)
"""Less than any accelerator of the table has."""
UNKNOWN_CPU_FLOPS_PER_CORE = 40e9
UNKNOWN_CPU_BANDWIDTH_PER_CORE = 3.2e9
"""One core of an AVX2 server with its share of eight memory channels (EPYC-7763's row / 64)."""
CONFIDENCE: Mapping[str, float] = {"high": 0.9, "medium": 0.7, "low": 0.4}
UNKNOWN_CONFIDENCE = 0.2

GB = 10**9
TERA = 10**12


@cache
def _rows(table: str) -> list[dict[str, str]]:
    text = files(__package__).joinpath(table).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _key(name: str) -> str:
    """Return a name without what people write differently: case, dashes, dots, underscores."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _models() -> Mapping[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in _rows("models.csv"):
        found[_key(row["model"])] = row
        found[_key(row["hf_id"].rpartition("/")[2])] = row
    return found


def quantization(name: str) -> str | None:
    """Return the quantisation a file name ends with, such as ``Q4_K_M``; None where it has none."""
    stem = re.sub(r"(\.gguf|\.safetensors)?(@.*)?$", "", name, flags=re.IGNORECASE).upper()
    found = [kind for kind in BITS_PER_WEIGHT if re.search(rf"(^|[-_.]){kind}$", stem)]
    return max(found, key=len, default=None)


def model(name: str, quantized: str | None = None) -> Model | None:
    """Look a model up by its name, hub id, file name or URI.

    Parameters
    ----------
    name : str
        For instance ``Llama-3.1-8B``, ``meta-llama/Llama-3.1-8B`` or
        ``file://llama-3.1-8b-instruct-q4_k_m.gguf``.
    quantized : str, optional
        Quantisation; by default what the name says, else F16.

    Returns
    -------
    Model or None
        None where the table has no such model or no such quantisation.
    """
    stem = re.split(r"[/\\]", name.removesuffix("/"))[-1]
    kind = (quantized or quantization(stem) or DEFAULT_QUANTIZATION).upper()
    if kind not in BITS_PER_WEIGHT:
        return None
    key = _key(re.sub(r"(\.gguf|\.safetensors)$", "", stem, flags=re.IGNORECASE))
    for known in sorted(_models(), key=len, reverse=True):
        # What follows the name may say a tuning or a quantisation, never another size.
        if key == known or (key.startswith(known) and not key[len(known)].isdigit()):
            row = _models()[known]
            return from_config(
                row,
                name=row["model"],
                bits=bits(kind),
                weights=stem,
                quantization=kind,
                source=TABLE,
            )
    return None


def bits(kind: str) -> float:
    """Return the stored bits per weight of a quantisation."""
    return BITS_PER_WEIGHT[kind.upper()]


@cache
def _devices() -> Mapping[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in _rows("accelerators.csv"):
        for name in (row["name"], row["node_label_value"].partition(" ")[0]):
            if len(name) > 1 and not name.startswith("("):
                found.setdefault(_bare(name), row)
    return found


def processors() -> list[dict[str, str]]:
    """Return the rows of ``accelerators.csv`` that are processors."""
    return [row for row in _rows("accelerators.csv") if row["kind"] == "cpu"]


def _bare(label: str) -> str:
    """Return a product label without vendor prefix and sharing suffixes."""
    label = re.sub(r"^(NVIDIA|Tesla|AMD_Instinct|AMD)[-_ ]", "", label)
    label = re.sub(r"^(GeForce|Tesla|Instinct)[-_ ]", "", label)
    label = re.sub(r"(-SHARED|-MIG-.*|_OAM)$", "", label)
    return _key(label)


def device(label: str) -> dict[str, str] | None:
    """Return the row of ``accelerators.csv`` that a node label or a device name means.

    Understands GPU feature discovery's product names with and without ``NVIDIA-``, ``Tesla-``,
    ``-SHARED`` and ``-MIG-…``, AMD's and Ascend's; the longest known name wins.
    """
    bare = _bare(label)
    if bare in _devices():
        return _devices()[bare]
    ascend = {"910b": "Ascend-910B", "910a": "Ascend-910A", "910proa": "Ascend-910A"}
    for prefix, name in ascend.items():
        if bare.removeprefix("huaweiascend").removeprefix("ascend").startswith(prefix):
            return _devices()[_key(name)]
    # What follows the name may say a variant, never another number: T400 is no T4.
    known = [n for n in _devices() if bare.startswith(n) and not bare[len(n) :][:1].isdigit()]
    return _devices()[max(known, key=len)] if known else None


def memory(row: Mapping[str, str]) -> Bytes:
    """Return a device's memory in bytes; the table counts as vendors do, in 2^30."""
    return Bytes(int(float(row["memory_gb"] or 0) * 2**30))


def bandwidth(row: Mapping[str, str]) -> float:
    """Return a device's memory bandwidth in bytes/s."""
    return float(row["mem_bw_gb_s"]) * GB


def peak_flops(row: Mapping[str, str]) -> float:
    """Return a device's dense 16-bit FLOP/s."""
    return float(row["fp16_dense_tflops"]) * TERA


def confidence(row: Mapping[str, str]) -> float:
    """Return how far a row is to be believed, 0 to 1."""
    return CONFIDENCE.get(row["confidence"], UNKNOWN_CONFIDENCE)
