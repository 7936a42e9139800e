"""Real nodes: kubelet and container runtime in network, mount and process namespaces of their own.

A node has its own first process. Killing it kills everything on the node, and the mounts go with
the namespace, so nothing of a node can outlive it but names that are on record.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel_sandbox import cgroups, networks, stores
from evenkeel_sandbox.failures import NotReadyError, SandboxError
from evenkeel_sandbox.pki import Authority
from evenkeel_sandbox.processes import Processes, Record
from evenkeel_sandbox.specs import RealNode
from evenkeel_sandbox.states import State

_TOOLS = ("containerd", "ctr", "runc", "gcc", "ip", "nsenter", "unshare", "busybox", "sysctl")
_PLUGINS = Path("/usr/lib/cni")
_PATIENCE = 60.0

_INIT = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""
"""First process of a node: buries the orphans and nothing else."""


def obstacle() -> str | None:
    """Say why this machine cannot have real nodes, None if it can."""
    if os.geteuid():
        return "they need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    missing += [] if (_PLUGINS / "bridge").exists() else ["CNI plugins"]
    return (
        f"{', '.join(missing)} not installed (sandbox/install-host.sh does it)" if missing else None
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """One real node of a sandbox."""

    state: State
    folder: Path
    """Of the sandbox."""
    processes: Processes
    index: int
    node: RealNode

    @property
    def own(self) -> Path:
        """The node's folder."""
        return self.folder / "nodes" / self.node.name

    @property
    def name(self) -> str:
        """Name of its network namespace and control groups."""
        return self.state.machine(self.node.name)

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return self.state.subnet.node(self.index)

    def boot(self, template: Path) -> None:
        """Bring the machine up to a running container runtime."""
        self._lay_files(template)
        link = self.state.link(self.index)
        networks.open_node(self.name, link, self.state.bridge, self.state.subnet, self.index)
        self.power_on()

    def power_on(self) -> None:
        """Start the namespaces and the container runtime."""
        # After a power cut the pods' groups are still there, and the kubelet looks into each.
        cgroups.remove(self.name)
        cgroups.create(self.name)
        self._start("init", self._init())
        self._wait_for("the first process", lambda: self._inside is not None)
        self._start(
            "containerd", ["containerd", "-c", str(stores.CONFIG), "-l", "warn"], inner=True
        )
        self._wait_for("containerd", lambda: self.run("ctr", "version") is not None)

    def join(self) -> None:
        """Start the kubelet; the Node object and the certificates must be there."""
        argv = [
            self.state.binaries["kubelet"],
            f"--kubeconfig={self.own / 'kubeconfig'}",
            f"--config={self.own / 'kubelet.json'}",
            f"--hostname-override={self.node.name}",
            f"--node-ip={self.address}",
        ]
        self._start("kubelet", argv, inner=True)

    def issue(self, authority: Authority) -> None:
        """Issue the node's certificates: it may only touch what is its own."""
        user = f"system:node:{self.node.name}"
        authority.client(self.node.name, user, "system:nodes")
        names = [self.node.name, self.address]
        authority.server(f"{self.node.name}-serving", user, names, "system:nodes")
        authority.kubeconfig(self.own / "kubeconfig", self.state.server, self.node.name)

    def manifest(self) -> dict[str, Any]:
        """Return the Node object, made for the kubelet so that any label can be on it."""
        labels = {"kubernetes.io/hostname": self.node.name, **self.node.labels}
        metadata = {"name": self.node.name, "labels": labels}
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}

    def run(self, *argv: str) -> str | None:
        """Run a command on the node; None if it fails."""
        init = self._inside
        if init is None:
            return None
        enter = ["nsenter", "-t", str(init), "-m", "-p", "-n", "--"]
        done = subprocess.run([*enter, *argv], capture_output=True, text=True, check=False)
        return None if done.returncode else done.stdout

    def import_image(self, archive: Path, tag: str) -> None:
        """Load an image that the running node does not have yet."""
        ctr = ("ctr", "-n", "k8s.io", "images")
        self.run(*ctr, "import", str(archive.absolute()))
        if tag not in (self.run(*ctr, "list", "-q") or "").split():
            raise SandboxError(f"{archive} holds no image {tag} that {self.node.name} can import")

    def remove(self) -> None:
        """Remove what the dead node leaves behind."""
        networks.close_node(self.name, self.state.link(self.index), self.state.subnet, self.index)
        cgroups.remove(self.name)

    @property
    def _inside(self) -> int | None:
        """Pid of the first process, seen from the host."""
        return self.processes.pid(f"{self.node.name}/init")

    def _start(self, name: str, argv: list[str], *, inner: bool = False) -> None:
        process = f"{self.node.name}/{name}"
        log = self.folder / "logs" / f"{self.node.name}.{name}.log"
        inside = f"{self.node.name}/init" if inner else None
        groups = cgroups.daemons(self.name)
        self.processes.start(process, Record(argv, {}, str(log), inside, groups))

    def _init(self) -> list[str]:
        """Return the command that makes the namespaces and mounts the node's own folders."""
        mounts = [
            "mount -t tmpfs tmpfs /run/containerd",
            "mount -t tmpfs tmpfs /var/log/containers",
        ]
        mounts += [f"mount --bind {self._at(point)} {point}" for point in self._bound()]
        script = " && ".join([*mounts, 'exec "$0" -ISc "$1"'])
        namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        shell = ["sh", "-c", script, sys.executable, _INIT]
        net = f"--net=/run/netns/{self.name}"
        return ["nsenter", net, "--", "unshare", *namespaces, "--", *shell]

    @staticmethod
    def _bound() -> list[str]:
        return [point for point in stores.MOUNT_POINTS if point not in _VOLATILE]

    def _at(self, point: str) -> Path:
        """Return the node's own folder for a usual one."""
        return self.own / point.lstrip("/").replace("/", "-")

    def _lay_files(self, template: Path) -> None:
        stores.prepare_mount_points()
        for point in self._bound():
            if point != "/var/lib/containerd":
                self._at(point).mkdir(parents=True)
        stores.clone(template, self._at("/var/lib/containerd"))
        network = self._at("/var/lib/cni") / "net.d"
        network.mkdir()
        _dump(network / "10-pods.conflist", _pod_network(self.state.subnet.pods(self.index)))
        _dump(self.own / "kubelet.json", self._kubelet())

    def _kubelet(self) -> dict[str, Any]:
        pki = self.folder / "pki"
        timing = self.state.timing
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{self.node.name}-serving.crt"),
            "tlsPrivateKeyFile": str(pki / f"{self.node.name}-serving.key"),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.name}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": os.devnull,
            "clusterDomain": "cluster.local",
            "serializeImagePulls": False,
            "imageGCHighThresholdPercent": 100,
            # The disk is the host's: a full one is no reason to evict, and not this node's matter.
            "evictionHard": dict.fromkeys(_SIGNALS, "0%"),
            "systemReserved": {"memory": str(self._others_memory())},
            "nodeLeaseDurationSeconds": timing.lease,
            "nodeStatusUpdateFrequency": f"{timing.status}s",
            "nodeStatusReportFrequency": f"{timing.status}s",
        }

    def _others_memory(self) -> int:
        """Return the bytes that are not this node's share: all nodes live in one memory."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total - total // (len(self.state.nodes) + 1)

    def _wait_for(self, what: str, ready: Any) -> None:
        end = time.monotonic() + _PATIENCE
        while not ready():
            if time.monotonic() > end:
                raise NotReadyError(f"{what} of {self.node.name} did not start; see its log")
            time.sleep(0.02)


_VOLATILE = ("/run/containerd", "/var/log/containers")
_SIGNALS = ("memory.available", "nodefs.available", "imagefs.available", "nodefs.inodesFree")


def _pod_network(subnet: str) -> Mapping[str, Any]:
    """Return the CNI configuration: a bridge in the node, addresses of the node's own network."""
    ranges = [[{"subnet": subnet}]]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}


def _dump(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1))
