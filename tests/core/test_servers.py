"""What a server offers: reserves are kept back, the reference server has rate one."""

from dataclasses import replace

import pytest

from evenkeel_core.quantities import CPU, MEMORY, Bytes
from evenkeel_core.servers import (
    REFERENCE_BANDWIDTH,
    REFERENCE_FLOPS,
    Device,
    Server,
    rate,
)

REFERENCE = Device("reference", CPU, 1, Bytes(0), REFERENCE_FLOPS, REFERENCE_BANDWIDTH)


def test_what_is_reserved_is_not_planned_and_never_negative() -> None:
    server = Server("n", {CPU: 1000, MEMORY: 10}, REFERENCE, reserve={CPU: 300, MEMORY: 20})
    assert server.plannable == {CPU: 700, MEMORY: 0}


def test_the_reference_server_has_rate_one_and_accelerators_add_to_it() -> None:
    server = Server("n", {}, REFERENCE)
    assert rate(server) == pytest.approx(1.0)
    twice = replace(REFERENCE, peak_flops=2 * REFERENCE_FLOPS, bandwidth=2 * REFERENCE_BANDWIDTH)
    gpus = replace(twice, resource="nvidia.com/gpu", count=2)
    assert rate(replace(server, accelerators=(gpus,))) == pytest.approx(5.0)


def test_accelerators_are_preferred_to_processors() -> None:
    gpu = replace(REFERENCE, resource="nvidia.com/gpu")
    assert Server("n", {}, REFERENCE, (gpu,)).devices == (gpu, REFERENCE)
