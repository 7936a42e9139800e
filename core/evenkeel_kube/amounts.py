"""Kubernetes quantities to and from whole numbers, exactly.

CPU counts in millicores, everything else in its unit. A fraction is rounded up: what is asked
for must fit.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from evenkeel_core.quantities import CPU, MILLI

SUFFIXES: Mapping[str, Fraction] = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
    "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
PATTERN = re.compile(
    r"([+-]?[0-9]{1,30}(?:\.[0-9]{0,30})?|[+-]?\.[0-9]{1,30})(?:([eE][+-]?[0-9]{1,2})|(n|u|m|k|Ki|[MGTPE]i?)?)"
)


def parse(quantity: str | float, *, resource: str = "") -> int:
    """Return a quantity as a whole number: millicores of ``cpu``, units of anything else.

    Raises
    ------
    ValueError
        If `quantity` is none of Kubernetes' forms.
    """
    match = PATTERN.fullmatch(str(quantity).strip())
    if match is None:
        raise ValueError(f"`{quantity}` is not a quantity such as 500m, 2 or 16Gi")
    number = Fraction(match[1]) * Fraction(10) ** int((match[2] or "e0")[1:])
    number *= SUFFIXES[match[3] or ""]
    if resource == CPU:
        number *= MILLI
    return -((-number.numerator) // number.denominator)


def vector(amounts: Mapping[str, Any] | None) -> dict[str, int]:
    """Return a resource list as whole numbers."""
    return {name: parse(amount, resource=name) for name, amount in sorted((amounts or {}).items())}


def render(number: int, resource: str) -> str:
    """Return a whole number as the quantity that `parse` reads back."""
    return f"{number}m" if resource == CPU else str(number)


def resource_list(amounts: Mapping[str, int]) -> dict[str, str]:
    """Return whole numbers as a resource list."""
    return {name: render(number, name) for name, number in sorted(amounts.items())}
