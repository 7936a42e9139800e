"""The committed CRDs are those of the types, structural and bounded."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from evenkeel_kube import crds
from evenkeel_kube.kinds.schema import Api

ALL = crds.all_definitions()
Schema = dict[str, Any]


def parts(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every part of a schema with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from parts(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key], f"{path}[]")


def schema_of(name: str) -> Schema:
    (version,) = ALL[name]["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.parametrize("name", ALL)
def test_the_committed_file_is_current(name: str) -> None:
    committed = (crds.FOLDER / name).read_text(encoding="utf-8")
    assert committed == crds.text(ALL[name]), "run python -m evenkeel_kube.crds"
    assert yaml.safe_load(committed) == ALL[name]


@pytest.mark.parametrize("name", ALL)
def test_the_schema_is_structural(name: str) -> None:
    for path, part in parts(schema_of(name)):
        assert not {"$ref", "title", "allOf", "oneOf", "$defs"} & set(part), path
        typed = "type" in part or part.get("x-kubernetes-int-or-string")
        assert typed, f"{path} has no type"
        if "anyOf" in part:
            assert part["x-kubernetes-int-or-string"], path
        assert not ("properties" in part and "additionalProperties" in part), path


@pytest.mark.parametrize("name", ALL)
def test_everything_a_user_writes_is_bounded(name: str) -> None:
    for path, part in parts(schema_of(name)["properties"]["spec"]):
        if part.get("type") == "array":
            assert "maxItems" in part, path
        if part.get("type") == "string" and "enum" not in part and "x-kubernetes" not in part:
            bounded = "maxLength" in part or part.get("pattern", "").endswith("{64}$")
            assert bounded or part.get("pattern", "").startswith("^("), path
        if isinstance(part.get("additionalProperties"), dict):
            assert "maxProperties" in part, path


@pytest.mark.parametrize("name", ALL)
def test_every_field_is_documented(name: str) -> None:
    """`kubectl explain` has a word on each."""
    for path, part in parts(schema_of(name)):
        for field, schema in part.get("properties", {}).items():
            said = schema.get("description", "").endswith(".")
            assert said or field == "metadata", f"{path}.{field}"


@pytest.mark.parametrize("name", ALL)
def test_every_rule_says_something(name: str) -> None:
    for path, part in parts(schema_of(name)):
        for rule in part.get("x-kubernetes-validations", ()):
            assert rule["rule"], path
            assert len(rule["message"]) > 15, path


def test_check_tells_what_is_stale(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crds, "FOLDER", tmp_path)
    assert crds.main(["--check"]) == 1
    assert "inferencejobs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert crds.main([]) == 0
    assert crds.main(["--check"]) == 0


class Recursive(Api):
    """A type that contains itself."""

    inner: "Recursive | None" = None


class TwoTypes(Api):
    """A union that no structural schema can say."""

    value: int | list[int]


@pytest.mark.parametrize("kind", [Recursive, TwoTypes])
def test_what_can_not_be_structural_is_refused(kind: type[Api]) -> None:
    with pytest.raises((ValueError, KeyError)):
        crds.structural(kind)
