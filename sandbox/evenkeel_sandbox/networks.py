"""Addresses, bridges and links of a sandbox; two sandboxes never share any."""

import contextlib
import ipaddress
import json
import socket
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from evenkeel_sandbox.failures import SandboxError

Network = ipaddress.IPv4Network

_CANDIDATES = tuple(
    Network(f"10.{second}.0.0/16") for second in (*range(231, 255), *range(200, 231))
)
_PORTS = range(21000, 30000)
"""Below the ports the kernel hands out by itself, so nobody takes one between choice and use."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """The addresses of one sandbox: 10.N.0.0/16 and what is where in it."""

    whole: Network

    @property
    def gateway(self) -> str:
        """The host's own address on the bridge."""
        return str(self.whole[1])

    def node(self, index: int) -> str:
        """Return the address of a node; the first has index 1."""
        return str(self.whole[10 + index])

    def pods(self, index: int) -> str:
        """Return the network of a node's pods."""
        return str(Network((int(self.whole.network_address) + index * 256, 24)))

    @property
    def simulated(self) -> str:
        """The network of pods that only seem to be."""
        return str(list(self.whole.subnets(new_prefix=17))[1])


def choose(taken: Collection[Network]) -> Subnet:
    """Return the first subnet that overlaps nothing.

    Two bridges with one subnet give no error: nodes of the second just never get an answer.
    """
    for candidate in _CANDIDATES:
        if not any(candidate.overlaps(network) for network in taken):
            return Subnet(candidate)
    raise SandboxError("no free 10.N.0.0/16 on this machine: stop a sandbox or a VPN")


def taken() -> set[Network]:
    """Return every network this host has an address in or a route to."""
    addresses = json.loads(run("ip", "-4", "-j", "addr"))
    local = {
        Network(f"{info['local']}/{info['prefixlen']}", strict=False)
        for link in addresses
        for info in link.get("addr_info", [])
    }
    routes = json.loads(run("ip", "-4", "-j", "route", "show", "table", "all"))
    return local | _destinations(route.get("dst", "default") for route in routes)


def _destinations(texts: Iterable[str]) -> set[Network]:
    networks = set()
    for text in texts:
        with contextlib.suppress(ValueError):  # "default" covers everything and blocks nothing
            networks.add(Network(text))
    return {network for network in networks if network.prefixlen}


def choose_ports(count: int, avoid: Collection[int]) -> list[int]:
    """Return free ports of the loopback that no other sandbox has on record."""
    found: list[int] = []
    for port in _PORTS:
        if len(found) == count:
            break
        if port not in avoid and _free(port):
            found.append(port)
    if len(found) < count:
        raise SandboxError(f"no {count} free ports from {_PORTS.start} to {_PORTS.stop}")
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def open_bridge(link: str, subnet: Subnet) -> None:
    """Make the bridge that all nodes hang on, and let the host route."""
    run("ip", "link", "add", link, "type", "bridge")
    run("ip", "addr", "add", f"{subnet.gateway}/24", "dev", link)
    run("ip", "link", "set", link, "up")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")


def open_node(netns: str, link: str, bridge: str, subnet: Subnet, index: int) -> None:
    """Make a node's network namespace, its cable to the bridge and the route to its pods."""
    address = subnet.node(index)
    run("ip", "netns", "add", netns)
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
    run("ip", "link", "set", link, "master", bridge, "up")
    run("ip", "-n", netns, "addr", "add", f"{address}/24", "dev", "eth0")
    run("ip", "-n", netns, "link", "set", "eth0", "up")
    run("ip", "-n", netns, "link", "set", "lo", "up")
    run("ip", "-n", netns, "route", "add", "default", "via", subnet.gateway)
    run("nsenter", f"--net=/run/netns/{netns}", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run("ip", "route", "replace", subnet.pods(index), "via", address)


def close_node(netns: str, link: str, subnet: Subnet, index: int) -> None:
    """Remove what `open_node` made, or as much of it as there is."""
    attempt("ip", "route", "del", subnet.pods(index), "via", subnet.node(index))
    attempt("ip", "link", "del", link)
    attempt("ip", "netns", "del", netns)


def close_bridge(link: str) -> None:
    """Remove the bridge if it is there; the host's forwarding stays as others may rely on it."""
    attempt("ip", "link", "del", link)


def run(*argv: str) -> str:
    """Run a tool of the host and return what it prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SandboxError(f"`{' '.join(argv)}`: {done.stderr.strip()}")
    return done.stdout


def attempt(*argv: str) -> bool:
    """Run a tool whose failure only says that there was nothing to do."""
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
