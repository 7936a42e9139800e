"""Subnets and ports that nobody else has."""

import socket

import pytest

from evenkeel_sandbox import networks
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.networks import Network


def test_a_subnet_overlaps_nothing_that_is_taken() -> None:
    first = networks.choose(set())
    second = networks.choose({first.whole})
    third = networks.choose({first.whole, Network(second.node(1) + "/32")})
    assert len({first.whole, second.whole, third.whole}) == 3


def test_a_taken_ten_leaves_nothing() -> None:
    with pytest.raises(SandboxError, match="no free"):
        networks.choose({Network("10.0.0.0/8")})


def test_every_address_lies_in_the_subnet_and_none_twice() -> None:
    subnet = networks.Subnet(Network("10.231.0.0/16"))
    pods = [Network(subnet.pods(index)) for index in range(1, 65)]
    nodes = [Network(subnet.node(index)) for index in range(1, 65)]
    parts = [*pods, *nodes, Network(subnet.simulated), Network(subnet.gateway)]
    assert subnet.pods(1) == "10.231.1.0/24"
    assert all(part.subnet_of(subnet.whole) for part in parts)
    assert not any(a.overlaps(b) for i, a in enumerate(parts) for b in parts[:i])


def test_the_default_route_takes_no_subnet() -> None:
    assert networks._destinations(["default", "0.0.0.0/0", "10.1.0.0/16"]) == {
        Network("10.1.0.0/16")
    }


def test_ports_in_use_or_on_record_are_left_out() -> None:
    (first,) = networks.choose_ports(1, set())
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", first))
        busy.listen()
        chosen = networks.choose_ports(3, {first + 1})
    assert len(set(chosen)) == 3
    assert not {first, first + 1} & set(chosen)
