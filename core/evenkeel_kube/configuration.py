"""Where the API server is and how to prove who we are: kubeconfig or a pod's service account."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigurationError(Exception):
    """The configuration can't be used; says which file, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """An API server and credentials for it."""

    server: str
    tls: ssl.SSLContext | None
    token: str = ""
    token_file: Path | None = None
    """Read again before use: bound tokens rotate."""
    namespace: str = "default"

    def authorization(self) -> dict[str, str]:
        """Return the header that says who we are; none where a certificate does.

        Raises
        ------
        OSError
            If the token's file can't be read at the moment.
        """
        token = self.token
        if self.token_file is not None:
            token = self.token_file.read_text(encoding="utf-8").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}


def load(path: Path | None = None) -> Configuration:
    """Return the configuration of a kubeconfig, of ``KUBECONFIG``, or of the pod we run in.

    Raises
    ------
    ConfigurationError
        If there is none or it can't be used.
    """
    stated = os.environ.get("KUBECONFIG")
    named = path or (Path(stated) if stated else None)
    if named is None and (SERVICE_ACCOUNT / "token").exists():
        return _in_cluster()
    named = named or Path.home() / ".kube" / "config"
    try:
        content = yaml.safe_load(named.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{named} can't be read ({error.strerror}); name a kubeconfig with --kubeconfig"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{named} is no YAML: {error}") from error
    try:
        return _from_kubeconfig(content, named.parent)
    except KeyError as error:
        raise ConfigurationError(f"{named} is no kubeconfig: {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{named} is no kubeconfig: {error}") from error
    except OSError as error:  # a certificate that is not there, or is none: SSLError is one
        raise ConfigurationError(f"{named} can't be used: {error}") from error


def _in_cluster() -> Configuration:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
    namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    return Configuration(
        f"https://{host}:{port}", tls, token_file=SERVICE_ACCOUNT / "token", namespace=namespace
    )


def _from_kubeconfig(content: Mapping[str, Any], folder: Path) -> Configuration:
    context = _named(content["contexts"], content["current-context"])["context"]
    cluster = _named(content["clusters"], context["cluster"])["cluster"]
    user = _named(content["users"], context["user"])["user"] or {}
    unknown = sorted({"exec", "auth-provider", "username"} & user.keys())
    if unknown:
        raise ValueError(
            f"users[].user.{unknown[0]} is not understood; "
            "use a client certificate, token or tokenFile"
        )
    server = cluster["server"].rstrip("/")
    token_file = user.get("tokenFile")
    return Configuration(
        server,
        _tls(cluster, user, folder) if server.startswith("https:") else None,
        token=user.get("token", ""),
        token_file=folder / token_file if token_file else None,
        namespace=context.get("namespace", "default"),
    )


def _named(items: Any, name: str) -> Any:
    for item in items:
        if item["name"] == name:
            return item
    raise ValueError(f"it names {name!r}, which it does not define")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _material(cluster, "certificate-authority", folder)
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate = _material(user, "client-certificate", folder)
    key = _material(user, "client-key", folder)
    if certificate and key:
        # ssl takes a client certificate from a file only.
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(certificate + b"\n" + key)
            pem.flush()
            tls.load_cert_chain(pem.name)
    return tls


def _material(holder: Mapping[str, Any], name: str, folder: Path) -> bytes | None:
    if holder.get(f"{name}-data"):
        return base64.b64decode(holder[f"{name}-data"])
    if holder.get(name):
        return (folder / str(holder[name])).read_bytes()
    return None
