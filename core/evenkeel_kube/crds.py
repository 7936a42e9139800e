"""Generates the CRDs from the types: ``python -m evenkeel_kube.crds`` writes ``crds/*.yaml``.

pydantic's JSON schema is not structural: it has references, titles and unions with null. The
conversion inlines, collapses and drops them, and keeps what Kubernetes adds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from evenkeel_kube import names
from evenkeel_kube.kinds import inferencejob, serverprofile
from evenkeel_kube.kinds.schema import Api

FOLDER = Path(__file__).parents[2] / "crds"
INT_OR_STRING = "x-kubernetes-int-or-string"

Schema = dict[str, Any]


def structural(kind: type[Api]) -> Schema:
    """Return the structural OpenAPI v3 schema of a kind."""
    schema = kind.model_json_schema(by_alias=True)
    converted = _convert(schema, schema.get("$defs", {}), ())
    properties: Schema = converted["properties"]
    return {
        "type": "object",
        "description": _sentence(kind.__doc__),
        "required": ["spec"] if "spec" in converted.get("required", []) else [],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema."},
            "kind": {"type": "string", "description": "Kind of the object."},
            # The API server documents it itself and allows nothing here.
            "metadata": {"type": "object"},
            **properties,
        },
    }


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _convert(schema: Schema, definitions: Schema, path: tuple[str, ...]) -> Schema:
    """Return a schema without references, titles and unions with null."""
    schema = _resolve(schema, definitions, path)
    path = (*path, str(schema.pop("$from", "")))
    schema = _without_null(schema, definitions, path)
    if schema.get(INT_OR_STRING):
        return _int_or_string(schema)
    converted = {key: value for key, value in schema.items() if key in KEPT}
    _tidy(schema, converted)
    if "const" in schema:
        converted |= {"enum": [schema["const"]], "type": "string"}
    if "exclusiveMinimum" in schema:
        converted |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "properties" in schema:
        converted["properties"] = {
            name: _convert(part, definitions, path) for name, part in schema["properties"].items()
        }
    if isinstance(schema.get("items"), dict):
        converted["items"] = _convert(schema["items"], definitions, path)
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and "properties" not in converted:
        converted["additionalProperties"] = _convert(values, definitions, path)
    if "x-kubernetes-preserve-unknown-fields" in converted:
        converted.pop("additionalProperties", None)
    return converted


KEPT = (
    "type", "description", "default", "enum", "pattern", "format", "required", "minimum",
    "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
    "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def _tidy(schema: Schema, converted: Schema) -> None:
    """Make descriptions one line, defaults what the API server takes, and types explicit."""
    if "description" in converted:
        converted["description"] = _sentence(converted["description"])
    if converted.get("default", "") is None:
        del converted["default"]
    if isinstance(converted.get("default"), dict):
        converted["default"] = {}  # the API server fills in the defaults of the parts
    if "enum" in schema and "type" not in converted:
        converted["type"] = "string"


def _resolve(schema: Schema, definitions: Schema, path: tuple[str, ...]) -> Schema:
    schema = dict(schema)
    reference = schema.pop("$ref", None)
    if reference is None:
        return schema
    name = reference.rpartition("/")[2]
    if name in path:
        raise ValueError(f"`{name}` contains itself: a structural schema can not recurse")
    return {**definitions[name], **schema, "$from": name}


def _without_null(schema: Schema, definitions: Schema, path: tuple[str, ...]) -> Schema:
    """Collapse a union with null into its other side; null is an absent field here."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if "anyOf" not in schema or schema.get(INT_OR_STRING):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if len(options) != 1:
        raise ValueError(f"a union of {len(options)} types is not structural: {path}")
    inner = _resolve(options[0], definitions, path)
    inner.pop("$from", None)
    merged = {**inner, **{key: value for key, value in rest.items() if value is not None}}
    if "anyOf" in merged:
        return _without_null(merged, definitions, path)
    return merged


def _int_or_string(schema: Schema) -> Schema:
    kept = ("description", "default", "pattern", "maxLength", "minimum", "maximum")
    found = {key: schema[key] for key in kept if schema.get(key) is not None}
    if "description" in found:
        found["description"] = _sentence(found["description"])
    return {**found, INT_OR_STRING: True, "anyOf": [{"type": "integer"}, {"type": "string"}]}


def definition(
    kind: type[Api],
    *,
    scope: str,
    plural: str,
    short: str,
    columns: Sequence[tuple[str, str, str, str, int]],
) -> Schema:
    """Return the CustomResourceDefinition of a kind."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": scope,
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": plural,
                "singular": kind.__name__.lower(),
                "shortNames": [short],
                "categories": ["evenkeel"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": structural(kind)},
                    "additionalPrinterColumns": [
                        {
                            "name": name,
                            "type": type_,
                            "jsonPath": path,
                            "description": description,
                            "priority": priority,
                        }
                        for name, type_, path, description, priority in columns
                    ],
                }
            ],
        },
    }


def all_definitions() -> dict[str, Schema]:
    """Return every CRD by its file name."""
    return {
        "evenkeel.dev_inferencejobs.yaml": definition(
            inferencejob.InferenceJob,
            scope="Namespaced",
            plural="inferencejobs",
            short="ijob",
            columns=inferencejob.COLUMNS,
        ),
        "evenkeel.dev_serverprofiles.yaml": definition(
            serverprofile.ServerProfile,
            scope="Cluster",
            plural="serverprofiles",
            short="sp",
            columns=serverprofile.COLUMNS,
        ),
    }


def text(crd: Schema) -> str:
    """Return a CRD as the file that is committed."""
    head = "# Generated from the types by `python -m evenkeel_kube.crds`; do not edit.\n"
    return head + yaml.safe_dump(crd, sort_keys=True, width=100, allow_unicode=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the CRDs, or with ``--check`` tell whether the committed ones are current."""
    parser = argparse.ArgumentParser(prog="python -m evenkeel_kube.crds", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if stale")
    options = parser.parse_args(arguments)
    stale = []
    for name, crd in all_definitions().items():
        path, wanted = FOLDER / name, text(crd)
        if not path.exists() or path.read_text(encoding="utf-8") != wanted:
            stale.append(name)
            if not options.check:
                path.write_text(wanted, encoding="utf-8")
    if options.check and stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run python -m evenkeel_kube.crds\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
