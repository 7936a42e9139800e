"""Kubeconfigs and service accounts, good and bad."""

import base64
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel_kube import configuration
from evenkeel_kube.configuration import ConfigurationError, load


def kubeconfig(user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def written(content: Any) -> Path:
        file = tmp_path / "kubeconfig"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return file

    return written


def test_a_kubeconfig_says_where_and_who(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(kubeconfig({"token": "t"}))
    found = load(file)
    assert (found.server, found.tls, found.namespace) == ("http://127.0.0.1:1", None, "ns")
    assert found.authorization() == {"Authorization": "Bearer t"}
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert load() == found


def test_several_kubeconfigs_are_merged_as_kubectl_does(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to define a thing has the say; paths are relative to the file they stand in."""
    first = {"current-context": "c", "contexts": kubeconfig()["contexts"], "users": None}
    second = kubeconfig({"tokenFile": "token"})
    third = kubeconfig({"token": "of the third"}, server="http://127.0.0.1:3")
    files = []
    for name, content in (("a", first), ("b", second), ("c", third)):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "config")
        files[-1].write_text(yaml.safe_dump(content))
    (tmp_path / "b" / "token").write_text("of the second")
    monkeypatch.setenv(
        "KUBECONFIG", os.pathsep.join(["", str(tmp_path / "none"), *map(str, files)])
    )
    found = load()
    assert (found.server, found.namespace) == ("http://127.0.0.1:1", "ns")
    assert found.authorization() == {"Authorization": "Bearer of the second"}
    assert load(files[2]).authorization() == {"Authorization": "Bearer of the third"}


def test_when_none_of_several_is_there_the_first_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tmp_path / name) for name in "ab"]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(names))
    with pytest.raises(ConfigurationError, match=f"{names[0]} can't be read"):
        load()


def test_a_user_may_have_nothing(write: Any) -> None:
    assert load(write(kubeconfig(None))).authorization() == {}


def test_files_are_relative_to_the_kubeconfig(write: Any, tmp_path: Path) -> None:
    file = write(kubeconfig({"tokenFile": "sub/token"}))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "token").write_text("t\n")
    assert load(file).authorization() == {"Authorization": "Bearer t"}


def test_tls_verifies_unless_told_not_to(write: Any) -> None:
    found = load(write(kubeconfig(None, server="https://x"))).tls
    assert found is not None
    assert found.verify_mode is ssl.CERT_REQUIRED
    trusting = kubeconfig(None, server="https://x", **{"insecure-skip-tls-verify": True})
    found = load(write(trusting)).tls
    assert found is not None
    assert found.verify_mode is ssl.CERT_NONE


NO_CERTIFICATE = base64.b64encode(b"no certificate").decode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no YAML"),
        ("", "is no kubeconfig"),
        ("[1]", "is no kubeconfig"),
        ({}, "'contexts' is missing"),
        ({**kubeconfig(), "current-context": "other"}, "names 'other', which it does not define"),
        ({**kubeconfig(), "users": None}, "is no kubeconfig"),
        (kubeconfig({"exec": {"command": "aws"}}), r"users\[\].user.exec is not understood"),
        (
            kubeconfig(None, server="https://x", **{"certificate-authority": "gone.crt"}),
            "can't be used: .*gone.crt",
        ),
        (
            kubeconfig(None, server="https://x", **{"certificate-authority-data": NO_CERTIFICATE}),
            "can't be used",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(write: Any, content: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load(write(content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere can't be read .* --kubeconfig"):
        load(tmp_path / "nowhere")


def test_in_a_pod_the_service_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(configuration, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(ssl, "create_default_context", lambda **kw: ("tls", kw["cafile"]))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (tmp_path / "token").write_text("first")
    (tmp_path / "namespace").write_text("ns\n")
    found = load()
    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "ns")
    assert found.tls == ("tls", str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("second")
    assert found.authorization() == {"Authorization": "Bearer second"}
