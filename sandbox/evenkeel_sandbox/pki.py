"""The sandbox's certificates: one authority, elliptic keys, everything below one folder."""

import datetime as dt
import ipaddress
import json
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = dt.timedelta(days=1)
"""A guest's clock may be behind: a certificate that is valid from now on is not valid there."""
VALID = dt.timedelta(days=365)


class Authority:
    """Issues what the cluster's parts show each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _new_key(folder / "ca.key")
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox-ca")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(self._name, self._key)
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        self.certificate = _write(folder / "ca.crt", certificate)

    def client(self, file: str, name: str, organisation: str | None = None) -> None:
        """Issue a client certificate; the API server reads user and group from it."""
        self._issue(file, name, organisation, (ExtendedKeyUsageOID.CLIENT_AUTH,), ())

    def server(
        self, file: str, name: str, alternatives: Sequence[str], organisation: str | None = None
    ) -> None:
        """Issue a serving certificate for host names and addresses."""
        self._issue(file, name, organisation, (ExtendedKeyUsageOID.SERVER_AUTH,), alternatives)

    def peer(self, file: str, name: str, alternatives: Sequence[str]) -> None:
        """Issue a certificate for a server that is a client of its like, as etcd's members are."""
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        self._issue(file, name, None, usages, alternatives)

    def key_pair(self, name: str) -> None:
        """Make a bare key pair, for the tokens of service accounts."""
        key = _new_key(self.folder / f"{name}.key")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / f"{name}.pub").write_bytes(public)

    def kubeconfig(self, path: Path, server: str, file: str) -> Path:
        """Write a kubeconfig for a client certificate; JSON is YAML enough for every reader."""
        return write_kubeconfig(path, server, self.folder, file)

    def _issue(
        self,
        file: str,
        name: str,
        organisation: str | None,
        usages: Sequence[x509.ObjectIdentifier],
        alternatives: Sequence[str],
    ) -> None:
        key = _new_key(self.folder / f"{file}.key")
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organisation:
            subject.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        # Strict verifiers (OpenSSL 3 in Python 3.13) insist on the authority's key identifier.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(x509.Name(subject), key)
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(issuer, critical=False)
        )
        if alternatives:
            names = x509.SubjectAlternativeName([_alternative(text) for text in alternatives])
            builder = builder.add_extension(names, critical=False)
        _write(self.folder / f"{file}.crt", builder.sign(self._key, hashes.SHA256()))


def write_kubeconfig(path: Path, server: str, pki: Path, file: str) -> Path:
    """Write a kubeconfig that names the authority, the certificate and its key by path."""
    cluster = {"server": server, "certificate-authority": str(pki / "ca.crt")}
    user = {
        "client-certificate": str(pki / f"{file}.crt"),
        "client-key": str(pki / f"{file}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": file}}],
        "current-context": "sandbox",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n")
    path.chmod(0o600)
    return path


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
    return key


def _write(path: Path, certificate: x509.Certificate) -> Path:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path
