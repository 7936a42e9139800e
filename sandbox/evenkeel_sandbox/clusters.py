"""A sandbox as a whole: up, used, broken on purpose, and down again whatever happened to it."""

import contextlib
import http.client
import re
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from evenkeel_sandbox import (
    attaching,
    binaries,
    cgroups,
    controlplane,
    machines,
    manifests,
    networks,
    states,
    stores,
)
from evenkeel_sandbox.api import Api
from evenkeel_sandbox.failures import (
    ApiError,
    BuildError,
    NoSuchSandboxError,
    NotReadyError,
    SandboxError,
    UnreachableError,
)
from evenkeel_sandbox.machines import Machine
from evenkeel_sandbox.pki import Authority
from evenkeel_sandbox.places import checkout, locked, sandboxes
from evenkeel_sandbox.processes import Processes, Record
from evenkeel_sandbox.progress import Progress
from evenkeel_sandbox.simulated import SimulatedNode
from evenkeel_sandbox.specs import ClusterSpec
from evenkeel_sandbox.states import State

DEFAULT = "default"
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PATIENCE = 120.0
"""Seconds to wait for anything: a laptop under load is slow, a mistake shows in the logs."""
_POLL = 0.05
_SILENT = Progress()
_CORE = ("etcd", "kube-apiserver")
"""Without these there is no cluster, whatever else still runs."""


class Cluster:
    """A sandbox that exists."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.folder = states.folder(state.name)
        self.kubeconfig = self.folder / "kubeconfig"
        self.processes = Processes(self.folder / "processes")
        self._whole = self.folder / "whole"
        """Exists once all is up; a start that was cut short leaves none."""
        self._api: Api | None = None

    @classmethod
    def up(
        cls, name: str = DEFAULT, spec: ClusterSpec | None = None, progress: Progress = _SILENT
    ) -> Self:
        """Return the sandbox of that name, started if it does not run.

        What a crash left of it is removed first. A running sandbox is returned as it is, and
        `progress` is told so.
        """
        folder = states.folder(name)
        with locked(sandboxes() / f".{name}.lock"):
            spec = spec or ClusterSpec()
            found = states.read(name)
            if found and cls(found).running:
                whose = "" if found.checkout == str(checkout()) else _started_from(found)
                progress.say(f"Sandbox {name} is up already{whose}.")
                return cls(found).attached(spec, progress)
            if found or folder.exists():
                progress.say(f"Sandbox {name} was not shut down; removing what is left of it.")
                _remove(name, progress)
            return cls._make(name, _possible(spec, progress), progress)

    @classmethod
    def fresh(cls, name: str, spec: ClusterSpec, progress: Progress = _SILENT) -> Self:
        """Return a sandbox that runs today's code and holds nothing: an older one is removed.

        Raises
        ------
        SandboxError
            If another checkout's sandbox runs under that name.
        """
        found = states.remains(name)
        if found and found.checkout not in ("", str(checkout())) and cls(found).running:
            raise SandboxError(
                f"sandbox {name} was started from {found.checkout}: choose another --name, or "
                f"remove it with `evenkeel sandbox down{option(name)}`"
            )
        down(name, progress)
        return cls.up(name, spec, progress)

    @classmethod
    def open(cls, name: str = DEFAULT) -> Self:
        """Return the sandbox of that name, running or not."""
        state = states.read(name)
        if state is None:
            raise NoSuchSandboxError(
                f"no sandbox named {name}: start it with `evenkeel sandbox up{option(name)}`"
            )
        return cls(state)

    @classmethod
    def _make(cls, name: str, spec: ClusterSpec, progress: Progress) -> Self:
        programs = binaries.ensure(progress)
        spec, template = _stocked(spec, progress)
        cluster = cls(_allocate(name, spec, programs))
        cluster._start(spec, template, progress)
        cluster._whole.touch()
        return cluster.attached(spec, progress)

    @property
    def running(self) -> bool:
        """Tell whether it came up whole and its API server and store are alive."""
        return self._whole.exists() and all(self.processes.identity(name) for name in _CORE)

    @property
    def api(self) -> Api:
        """The API server, as administrator."""
        if self._api is None:
            self._api = Api(self.kubeconfig)
        return self._api

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return what it prints."""
        done = subprocess.run(
            [self.state.binaries["kubectl"], f"--kubeconfig={self.kubeconfig}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SandboxError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Create or update objects, server-side, in the order given."""
        for document in documents:
            self.api.apply(manifests.path(document), document)

    def start(
        self,
        process: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Start one more process of this sandbox on the host; it goes down with it."""
        path = log or self.log(process)
        self.processes.start(process, Record(tuple(argv), dict(env or {}), str(path)))

    def pid(self, process: str) -> int | None:
        """Return the pid on the host, None if the process is dead."""
        self.processes.record(process)  # a name that never was is an error, not a death
        return self.processes.pid(process)

    def kill(self, process: str) -> None:
        """Kill the process as a crash would."""
        self.processes.kill(process)

    def restart(self, process: str) -> None:
        """Start the process anew with what it was started with."""
        self.processes.restart(process)

    def log(self, process: str) -> Path:
        """Return the file that holds what the process said."""
        return self.folder / "logs" / f"{process.replace('/', '.')}.log"

    def machines(self) -> list[Machine]:
        """Return the real nodes."""
        return [
            Machine(self.state, self.folder, self.processes, index, node)
            for index, node in self.state.indexed()
        ]

    def freeze(self, node: str) -> None:
        """Stop a real node in its tracks, pods included, as a hung machine would."""
        cgroups.freeze(self._machine(node).name)

    def thaw(self, node: str) -> None:
        """Let a frozen node go on."""
        cgroups.thaw(self._machine(node).name)

    def power_off(self, node: str) -> None:
        """Cut a real node's power: everything on it is gone at once."""
        self.kill(f"{self._machine(node).node.name}/init")

    def power_on(self, node: str) -> None:
        """Start a real node again, with its disk as it was."""
        machine = self._machine(node)
        machine.power_on()
        machine.join()

    def import_image(self, archive: Path, tag: str) -> None:
        """Load a docker-archive into every real node."""
        for machine in self.machines():
            machine.import_image(archive, tag)

    def _machine(self, node: str) -> Machine:
        found = {machine.node.name: machine for machine in self.machines()}
        if node not in found:
            raise SandboxError(f"no real node {node!r}; there are: {', '.join(found) or 'none'}")
        return found[node]

    def add_simulated(self, nodes: Iterable[SimulatedNode]) -> None:
        """Add simulated nodes to the running cluster."""
        for node in nodes:
            self.api.create("/api/v1/nodes", node.manifest())

    def volume(self, claim: str) -> Path:
        """Return the folder of the host behind a claim made by `workspace`."""
        if not _CLAIM.fullmatch(claim):
            raise ValueError("`claim` must be a lower-case DNS name, as the API server wants it")
        return self.folder / "volumes" / claim

    def workspace(self, claim: str, size: str = "1Gi") -> dict[str, Any]:
        """Return a claim and its volume: a folder of the host, the same on every real node."""
        path = self.volume(claim)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": claim},
            "spec": {
                **common,
                "capacity": {"storage": size},
                "hostPath": {"path": str(path)},
                "claimRef": {"namespace": "default", "name": claim},
            },
        }
        request = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": "default"},
            "spec": {
                **common,
                "volumeName": claim,
                "resources": {"requests": {"storage": size}},
            },
        }
        return {"apiVersion": "v1", "kind": "List", "items": [volume, request]}

    def remove_node(self, name: str) -> None:
        """Delete a Node object, as an administrator does with a server that will not come back."""
        self.api.call("DELETE", f"/api/v1/nodes/{name}")

    def wait(
        self,
        what: str,
        ready: Callable[[], bool],
        seconds: float = _PATIENCE,
        needs: Collection[str] = _CORE,
    ) -> None:
        """Wait until it is so.

        Raises
        ------
        NotReadyError
            If it is not so in time or a process it needs is dead; the message names `what`.
        """
        end = time.monotonic() + seconds
        while not _holds(ready):
            dead = [name for name in self.processes.names() if not self.processes.identity(name)]
            if time.monotonic() > end or set(dead) & set(needs):
                why = f"dead: {', '.join(dead)}" if dead else f"not after {seconds:.0f} s"
                raise NotReadyError(f"{what}: {why}; the logs are in {self.folder / 'logs'}")
            time.sleep(_POLL)

    def unready(self) -> list[str]:
        """Return the nodes that are not Ready or not yet free of the taint of new nodes."""
        items = self.api.get("/api/v1/nodes?resourceVersion=0")["items"]
        return [node["metadata"]["name"] for node in items if not _ready(node)]

    def summary(self) -> dict[str, Any]:
        """Return what there is, as data; `problem` says why the nodes are not known."""
        processes = [
            {"name": name, "pid": self.pid(name), "log": self.processes.record(name).log}
            for name in self.processes.names()
        ]
        items, problem = self._listed()
        real = {node.name for node in self.state.nodes}
        nodes = [
            {
                "name": node["metadata"]["name"],
                "kind": "real" if node["metadata"]["name"] in real else "simulated",
                "ready": _ready(node),
            }
            for node in items
        ]
        return {
            "name": self.state.name,
            "running": self.running,
            "kubeconfig": str(self.kubeconfig),
            "server": self.state.server,
            "processes": processes,
            "nodes": nodes,
            "problem": problem,
        }

    def _listed(self) -> tuple[list[dict[str, Any]], str | None]:
        """Return the nodes, or none and why: a broken cluster is when people ask for its status."""
        if not self.running:
            return [], "etcd or the API server is dead, or the start was cut short"
        try:
            return self.api.get("/api/v1/nodes")["items"], None
        except (ApiError, UnreachableError) as error:
            return [], str(error)

    def down(self, progress: Progress = _SILENT) -> None:
        """Stop and remove everything of this sandbox."""
        if self._api:
            self._api.close()
        down(self.state.name, progress)

    def _start(self, spec: ClusterSpec, template: Path | None, progress: Progress) -> None:
        authority = Authority(self.folder / "pki")
        controlplane.issue(authority, self.state)
        if self.state.network:
            networks.open_bridge(self.state.bridge, self.state.subnet)
        with ThreadPoolExecutor(max_workers=4) as pool:
            booting = [pool.submit(self._boot, machine, template) for machine in self.machines()]
            with progress.step("Starting the control plane"):
                self._start_control_plane()
            if booting:
                with progress.step(f"Starting {len(booting)} real nodes"):
                    self._join(booting, authority)
        if spec.simulated:
            with progress.step(f"Adding {len(spec.simulated)} simulated nodes"):
                self.add_simulated(spec.simulated)
        with progress.step("Waiting until all nodes are ready"):
            self.wait("all nodes Ready", lambda: not self.unready())
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self.wait("the default service account", lambda: bool(self.api.get(account)))

    def _join(self, booting: Iterable[Future[None]], authority: Authority) -> None:
        for machine, booted in zip(self.machines(), booting, strict=True):
            machine.issue(authority)
            self.api.create("/api/v1/nodes", machine.manifest())
            booted.result()
            machine.join()

    def attached(self, spec: ClusterSpec, progress: Progress = _SILENT) -> Self:
        """Start what is wanted of Evenkeel on the running cluster and does not run."""
        if spec.evenkeel and not all(map(self.processes.identity, attaching.PROGRAMS)):
            attaching.attach(self, spec.profiles, progress)
        return self

    @staticmethod
    def _boot(machine: Machine, template: Path | None) -> None:
        if template:
            machine.boot(template)

    def _start_control_plane(self) -> None:
        for name, argv in controlplane.commands(self.state, self.folder):
            self.start(name, argv)
            if name == "etcd":
                self.wait("etcd", self._etcd_answers)
            if name == "kube-apiserver":
                self.wait("the API server", lambda: self.api.text("/readyz") == "ok")
                self.apply(manifests.load(Path(__file__).parent / "rbac.yaml"))

    def _etcd_answers(self) -> bool:
        pki = self.folder / "pki" / controlplane.STORE
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "client.crt", pki / "client.key")
        with contextlib.closing(
            http.client.HTTPSConnection(
                "127.0.0.1", self.state.ports["etcd"], timeout=5, context=context
            )
        ) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK


def down(name: str, progress: Progress = _SILENT) -> bool:
    """Remove a sandbox, whatever state it is in; False if there is nothing of that name."""
    folder = states.folder(name)
    with locked(sandboxes() / f".{name}.lock"):
        if not folder.exists():
            return False
        with progress.step(f"Removing sandbox {name}"):
            _remove(name, progress)
        return True


def _started_from(state: State) -> str:
    return f", started from {state.checkout or 'an unknown place'}"


def mine() -> list[str]:
    """Return the names of the sandboxes that were started from this checkout."""
    found = ((name, states.remains(name)) for name in names())
    return [name for name, state in found if state and state.checkout == str(checkout())]


def names() -> list[str]:
    """Return the names of all sandboxes of which anything is left."""
    found = (path.name for path in sandboxes().glob("*") if path.is_dir())
    return sorted(name for name in found if states.valid(name))


def _allocate(name: str, spec: ClusterSpec, programs: Mapping[str, Path]) -> State:
    """Choose addresses and ports that nobody has and put them on record before any is used."""
    with locked(sandboxes() / ".allocation.lock"):
        others = states.everyone()
        avoid = {port for other in others for port in other.ports.values()}
        ports = networks.choose_ports(len(controlplane.PORTS), avoid)
        subnet = None
        if spec.nodes:
            theirs = {other.subnet.whole for other in others if other.network}
            subnet = networks.choose(networks.taken() | theirs)
        state = State(
            name=name,
            number=_number({other.number for other in others}),
            address=subnet.gateway if subnet else "127.0.0.1",
            network=str(subnet.whole) if subnet else None,
            ports=dict(zip(controlplane.PORTS, ports, strict=True)),
            nodes=spec.nodes,
            timing=spec.timing,
            binaries={program: str(path) for program, path in programs.items()},
            checkout=str(checkout()),
        )
        states.write(state)
    return state


def _number(taken: Collection[int]) -> int:
    """Return a number at random: other users' sandboxes are on records we can't read."""
    while (number := 1000 + secrets.randbelow(9000)) in taken:
        pass
    return number


def _remove(name: str, progress: Progress) -> None:
    """Undo everything on record, in the reverse order, skipping what is not there."""
    folder = states.folder(name)
    processes = Processes(folder / "processes")
    processes.settle()
    state = states.remains(name)
    if state is None and (folder / "state.json").exists():
        progress.say(
            f"The record of sandbox {name} is not one of this release: its processes and files go; "
            "links, network namespaces and control groups named evenkeelNNNN… may be left."
        )
    nodes = Cluster(state).machines() if state else []
    for machine in nodes:
        cgroups.thaw(machine.name)  # the frozen do not die
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(processes.kill, processes.names()))
    for machine in nodes:
        machine.remove()
    if state and state.network:
        networks.close_bridge(state.bridge)
    shutil.rmtree(folder)


def _possible(spec: ClusterSpec, progress: Progress) -> ClusterSpec:
    """Return the specification without real nodes, and say so, where there can't be any."""
    obstacle = machines.obstacle() if spec.nodes else None
    if obstacle is None:
        return spec
    return _simulated(spec, obstacle, progress)


def _stocked(spec: ClusterSpec, progress: Progress) -> tuple[ClusterSpec, Path | None]:
    """Return the specification and its nodes' images; without real nodes where there are none."""
    if not spec.nodes:
        return spec, None
    try:
        return spec, stores.template(progress)
    except BuildError as error:
        return _simulated(spec, " ".join(str(error).split()), progress), None


def _simulated(spec: ClusterSpec, obstacle: str, progress: Progress) -> ClusterSpec:
    progress.say(f"Simulated nodes only, no real ones: {obstacle.rstrip('.')}.")
    return replace(spec, nodes=())


def option(name: str) -> str:
    """Return what a command line needs to mean this sandbox."""
    return "" if name == DEFAULT else f" --name {name}"


def _holds(ready: Callable[[], bool]) -> bool:
    """Tell whether it is so; a server that does not answer yet says no."""
    try:
        return ready()
    except (OSError, http.client.HTTPException, ApiError, UnreachableError):
        return False


def _ready(node: Mapping[str, Any]) -> bool:
    conditions = {item["type"]: item["status"] for item in node["status"].get("conditions", [])}
    taints = {taint["key"] for taint in node["spec"].get("taints", [])}
    return conditions.get("Ready") == "True" and "node.kubernetes.io/not-ready" not in taints
