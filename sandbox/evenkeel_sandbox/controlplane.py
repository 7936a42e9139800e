"""Command lines of the control plane; the reasons for the flags stand beside them."""

from collections.abc import Iterator
from pathlib import Path

from evenkeel_sandbox.pki import Authority
from evenkeel_sandbox.specs import Timing
from evenkeel_sandbox.states import State

SERVICES = "10.96.0.0/16"
_SERVICE = "10.96.0.1"
"""The first address of SERVICES: what pods call `kubernetes.default.svc`."""
CLIENTS = {
    "scheduler": "system:kube-scheduler",
    "controller-manager": "system:kube-controller-manager",
    "kwok": "sandbox:kwok",
    "operator": "evenkeel-operator",
    "extender": "evenkeel-extender",
}
"""User name by file name; the first two have their roles built into the API server."""
STORE = "etcd"
"""Folder of the store's own authority, below that of the cluster's."""
ETCD_PORTS = ("etcd", "etcd-peer")
PORTS = (
    *ETCD_PORTS,
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kwok",
    "evenkeel-extender",
    "evenkeel-scheduler",
    "evenkeel-operator",
)


def issue(authority: Authority, state: State) -> None:
    """Issue all certificates of the control plane and write the kubeconfigs."""
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names += ["kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", _SERVICE]
    authority.server("apiserver", "kube-apiserver", [*dict.fromkeys([*names, state.address])])
    authority.client("admin", "admin", "system:masters")
    authority.client("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
    authority.client("front-proxy", "front-proxy-client")
    authority.key_pair("sa")
    # An authority of its own: whoever reads and writes the store is beyond all authorisation.
    store = Authority(authority.folder / STORE)
    store.peer("server", "etcd", ["localhost", "127.0.0.1"])
    store.client("client", "kube-apiserver-etcd-client")
    root = authority.folder.parent
    authority.kubeconfig(root / "kubeconfig", state.server, "admin")
    for file, user in CLIENTS.items():
        authority.client(file, user)
        authority.kubeconfig(root / "kubeconfigs" / file, state.server, file)


def commands(state: State, root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield name and command line of every process, in the order in which they start."""
    yield "etcd", etcd(state, root)
    yield "kube-apiserver", api_server(state, root)
    yield "kube-controller-manager", controller_manager(state, root)
    yield "kube-scheduler", scheduler(state, root)
    yield "kwok", kwok(state, root)


def etcd(state: State, root: Path) -> list[str]:
    """Return the store, which forgets at a power cut: so may a sandbox."""
    client, peer = (f"https://127.0.0.1:{state.ports[name]}" for name in ETCD_PORTS)
    pki = root / "pki" / STORE
    return [
        state.binaries["etcd"],
        f"--name={state.name}",
        f"--data-dir={root / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={state.name}={peer}",
        # The loopback is everybody's on this machine, and the store holds every secret.
        *(
            f"--{kind}{flag}"
            for kind in ("", "peer-")
            for flag in (
                "client-cert-auth",
                f"trusted-ca-file={pki / 'ca.crt'}",
                f"cert-file={pki / 'server.crt'}",
                f"key-file={pki / 'server.key'}",
            )
        ),
        "--unsafe-no-fsync",
        "--quota-backend-bytes=8589934592",
        "--log-level=warn",
    ]


def api_server(state: State, root: Path) -> list[str]:
    """Return the API server, listening on the bridge only: never on an outside interface."""
    pki = root / "pki"
    return [
        state.binaries["kube-apiserver"],
        f"--etcd-servers=https://127.0.0.1:{state.ports['etcd']}",
        f"--etcd-cafile={pki / STORE / 'ca.crt'}",
        f"--etcd-certfile={pki / STORE / 'client.crt'}",
        f"--etcd-keyfile={pki / STORE / 'client.key'}",
        f"--secure-port={state.ports['kube-apiserver']}",
        f"--bind-address={state.address}",
        f"--advertise-address={state.address}",
        # The loopback, where a sandbox without real nodes listens, is no endpoint of a Service.
        f"--endpoint-reconciler-type={'lease' if state.network else 'none'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        "--anonymous-auth=false",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        # Else logs and exec try to resolve the node's name.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICES}",
        "--allow-privileged",
        f"--requestheader-client-ca-file={pki / 'ca.crt'}",
        # One authority signs clients and the front proxy: without the name any client is a proxy.
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy.key'}",
        # The host has no kube-proxy: aggregated APIs are reached at their endpoints.
        "--enable-aggregator-routing=true",
        "--max-requests-inflight=3000",
        "--max-mutating-requests-inflight=1000",
        f"--default-not-ready-toleration-seconds={state.timing.toleration}",
        f"--default-unreachable-toleration-seconds={state.timing.toleration}",
    ]


def controller_manager(state: State, root: Path) -> list[str]:
    """Return the controllers, with rate limits that hundreds of simulated nodes do not hit."""
    pki = root / "pki"
    config = root / "kubeconfigs" / "controller-manager"
    return [
        state.binaries["kube-controller-manager"],
        *_connection(config, state.ports["kube-controller-manager"]),
        "--use-service-account-credentials",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--kube-api-qps=2000",
        "--kube-api-burst=2000",
        *_node_monitor(state.timing),
    ]


def _node_monitor(timing: Timing) -> list[str]:
    return [f"--node-monitor-grace-period={timing.grace}s", "--node-monitor-period=1s"]


def scheduler(state: State, root: Path) -> list[str]:
    """Return the default kube-scheduler, which knows nothing of Evenkeel."""
    config = root / "kubeconfigs" / "scheduler"
    return [
        state.binaries["kube-scheduler"],
        *_connection(config, state.ports["kube-scheduler"]),
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def _connection(config: Path, port: int) -> list[str]:
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
    ]


def kwok(state: State, root: Path) -> list[str]:
    """Return what plays the kubelets of the simulated nodes."""
    pods = state.subnet.simulated if state.network else "10.255.0.0/17"
    return [
        state.binaries["kwok"],
        f"--kubeconfig={root / 'kubeconfigs' / 'kwok'}",
        f"--config={Path(__file__).parent / 'stages.yaml'}",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--node-lease-duration-seconds={state.timing.lease}",
        f"--cidr={pods}",
        "--node-ip=127.0.0.1",
        f"--server-address=127.0.0.1:{state.ports['kwok']}",
    ]
