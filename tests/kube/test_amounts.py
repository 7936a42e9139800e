"""Quantities are exact: every suffix, both ways, and nothing else."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel_core.quantities import CPU, MEMORY
from evenkeel_kube import amounts

FACTORS = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 10**3), "": Fraction(1),
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{s}i": Fraction(1024) ** power for power, s in enumerate("KMGTPE", start=1)},
}  # fmt: skip


@given(
    st.integers(0, 10**15),
    st.text("0123456789", max_size=9),
    st.sampled_from(sorted(FACTORS)),
    st.sampled_from([CPU, MEMORY]),
)
def test_every_suffix_is_exact_and_rounded_up(
    whole: int, places: str, suffix: str, resource: str
) -> None:
    text = f"{whole}.{places}" if places else str(whole)
    exact = Fraction(text) * FACTORS[suffix] * (1000 if resource == CPU else 1)
    assert amounts.parse(text + suffix, resource=resource) == math.ceil(exact)


@given(st.integers(0, 10**6), st.integers(-9, 12), st.sampled_from("eE"))
def test_exponents_are_powers_of_ten(number: int, power: int, letter: str) -> None:
    parsed = amounts.parse(f"{number}{letter}{power}")
    assert parsed == math.ceil(number * Fraction(10) ** power)


@given(st.dictionaries(st.sampled_from([CPU, MEMORY, "nvidia.com/gpu"]), st.integers(0, 10**18)))
def test_what_is_rendered_is_read_back(vector: dict[str, int]) -> None:
    assert amounts.vector(amounts.resource_list(vector)) == vector


@pytest.mark.parametrize(
    ("text", "resource", "expected"),
    [("100m", CPU, 100), ("2", CPU, 2000), (2, CPU, 2000), (0.5, CPU, 500), ("1Gi", MEMORY, 2**30),
     ("1G", MEMORY, 10**9), ("1E", MEMORY, 10**18), ("1.5Ki", MEMORY, 1536), ("1n", CPU, 1)],
)  # fmt: skip
def test_examples(text: str | float, resource: str, expected: int) -> None:
    assert amounts.parse(text, resource=resource) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "1KiB",
        "1ki",
        "1K",
        "1 Gi",
        "--1",
        "1e",
        "1e5Gi",
        "0x10",
        "nan",
        "inf",
        "1_000",
        "٣",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity such as"):
        amounts.parse(text)
