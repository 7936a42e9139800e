"""Certificates that both Go and OpenSSL accept."""

import datetime as dt
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from evenkeel_sandbox.pki import Authority


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_server_is_trusted_under_each_of_its_names(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server("api", "kube-apiserver", ["localhost", "10.231.0.1"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "api.crt", tmp_path / "api.key")
    for name in ("localhost", "10.231.0.1"):
        assert _handshake(server, ssl.create_default_context(cafile=tmp_path / "ca.crt"), name)


def test_a_store_lets_in_whom_its_own_authority_knows(tmp_path: Path) -> None:
    authority, store = Authority(tmp_path), Authority(tmp_path / "store")
    authority.client("admin", "admin", "system:masters")
    store.peer("server", "etcd", ["127.0.0.1"])
    store.client("client", "api")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "store/server.crt", tmp_path / "store/server.key")
    server.load_verify_locations(tmp_path / "store/ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    for file, known in (("store/client", True), ("store/server", True), ("admin", False)):
        client = ssl.create_default_context(cafile=tmp_path / "store/ca.crt")
        client.load_cert_chain(tmp_path / f"{file}.crt", tmp_path / f"{file}.key")
        if known:
            assert _handshake(server, client, "127.0.0.1")
        else:
            with pytest.raises(ssl.SSLError):
                _handshake(server, client, "127.0.0.1")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(6):
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    return len(done) == 2


def test_user_and_group_stand_in_the_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.client("node", "system:node:worker-1", "system:nodes")
    subject = _load(tmp_path / "node.crt").subject
    (name,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    (group,) = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert (name.value, group.value) == ("system:node:worker-1", "system:nodes")
    _load(tmp_path / "node.crt").verify_directly_issued_by(_load(tmp_path / "ca.crt"))


def test_a_clock_that_is_behind_finds_the_certificate_valid(tmp_path: Path) -> None:
    Authority(tmp_path).client("a", "a")
    behind = dt.datetime.now(dt.UTC) - dt.timedelta(hours=23)
    assert _load(tmp_path / "a.crt").not_valid_before_utc < behind


def test_keys_and_kubeconfigs_are_for_their_owner_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.client("admin", "admin", "system:masters")
    config = authority.kubeconfig(tmp_path / "kubeconfig", "https://10.231.0.1:6443", "admin")
    assert json.loads(config.read_text())["clusters"][0]["cluster"]["server"].endswith(":6443")
    for path in (config, tmp_path / "pki/admin.key", tmp_path / "pki/ca.key"):
        assert path.stat().st_mode & 0o077 == 0
