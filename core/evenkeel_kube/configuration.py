"""Where the API server is and how to prove who we are: kubeconfig or a pod's service account."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FILES = frozenset({"certificate-authority", "client-certificate", "client-key", "tokenFile"})
"""Keys of a kubeconfig that hold paths."""
LISTS = ("clusters", "contexts", "users")
"""Keys that hold lists of what has a name."""


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

    ``KUBECONFIG`` may name several files, as kubectl reads them: those that are not there are left
    out, and what an earlier one defines a later one does not change.

    Raises
    ------
    ConfigurationError
        If there is none or it can't be used.
    """
    stated = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    named = [path] if path else stated
    if not named and (SERVICE_ACCOUNT / "token").exists():
        return _in_cluster()
    named = named or [Path.home() / ".kube" / "config"]
    found = [file for file in named if file.exists()] or named[:1]
    who = ", ".join(map(str, found))
    contents = [_content(file) for file in found]
    try:
        located = [_located(item, file.parent) for item, file in zip(contents, found, strict=True)]
        return _from_kubeconfig(_merged(located))
    except KeyError as error:
        raise ConfigurationError(f"{who} is no kubeconfig: {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{who} is no kubeconfig: {error}") from error
    except OSError as error:  # a certificate that is not there, or is none: SSLError is one
        raise ConfigurationError(f"{who} can't be used: {error}") from error


def _content(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{file} can't be read ({error.strerror}); name a kubeconfig with --kubeconfig"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is no YAML: {error}") from error


def _located(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a kubeconfig whose paths, which are relative to its folder, are so no more."""

    def placed(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
        held = dict(item.get(kind) or {})
        for key in FILES & held.keys():
            held[key] = str(folder / held[key]) if held[key] else held[key]
        return {**item, kind: held}

    found = dict(content)
    for section, kind in (("clusters", "cluster"), ("users", "user")):
        if section in content:
            found[section] = [placed(item, kind) for item in content[section] or ()]
    return found


def _merged(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one kubeconfig of several; the first to say a thing has the say."""
    merged: dict[str, Any] = {}
    for content in contents:
        for key, value in content.items():
            if key in LISTS and key in merged:
                named = {item["name"] for item in merged[key]}
                more = [item for item in value or () if item["name"] not in named]
                merged[key] = [*merged[key], *more]
            elif not merged.get(key):
                merged[key] = value
    return merged


def _in_cluster() -> Configuration:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
    namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    return Configuration(
        f"https://{host}:{port}", tls, token_file=SERVICE_ACCOUNT / "token", namespace=namespace
    )


def _from_kubeconfig(content: Mapping[str, Any]) -> Configuration:
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
        _tls(cluster, user) if server.startswith("https:") else None,
        token=user.get("token", ""),
        token_file=Path(token_file) if token_file else None,
        namespace=context.get("namespace", "default"),
    )


def _named(items: Any, name: str) -> Any:
    for item in items:
        if item["name"] == name:
            return item
    raise ValueError(f"it names {name!r}, which it does not define")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = _material(cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate = _material(user, "client-certificate")
    key = _material(user, "client-key")
    if certificate and key:
        # ssl takes a client certificate from a file only.
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(certificate + b"\n" + key)
            pem.flush()
            tls.load_cert_chain(pem.name)
    return tls


def _material(holder: Mapping[str, Any], name: str) -> bytes | None:
    if holder.get(f"{name}-data"):
        return base64.b64decode(holder[f"{name}-data"])
    if holder.get(name):
        return Path(holder[name]).read_bytes()
    return None
