"""What all kinds share: the base class, bounded field types, and rules in CEL.

Everything is bounded: the API server estimates the cost of CEL rules from the bounds and refuses
a CRD whose rules could become expensive.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel


def rule(expression: str, message: str, **more: str) -> dict[str, str]:
    """Return one CEL rule; the message names the field, the rule and what to do."""
    return {"rule": expression, "message": message, **more}


class Api(BaseModel):
    """A part of a kind: unknown fields are refused here, pruned by the API server."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


def ruled(*rules: dict[str, str], **more: Any) -> ConfigDict:
    """Return the configuration of a part with CEL rules."""
    extra: dict[str, Any] = {"x-kubernetes-validations": list(rules), **more}
    return ConfigDict(json_schema_extra=extra)


Name = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
"""A DNS label."""
ObjectName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""The name of another object."""
Text = Annotated[str, Field(max_length=1024)]
Path = Annotated[
    str,
    Field(max_length=512, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"),
]
"""A relative path without ``..`` and without leading slash."""
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _written(amount: object) -> object:
    """Take a whole number for the text the API server takes it for."""
    return str(amount) if isinstance(amount, int) and not isinstance(amount, bool) else amount


Amount = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_written),
]
"""A Kubernetes quantity."""
Labels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)]
Amounts = Annotated[dict[str, Amount], Field(max_length=16)]
Loose = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
"""A Kubernetes object whose own schema the API server applies when it is used."""


class Condition(Api):
    """One observation about the object."""

    type: Annotated[str, Field(max_length=64)] = Field(description="Name of the condition.")
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$", max_length=7)]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=128)] = Field(
        description="Why, as one word; see the reference of reasons."
    )
    message: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="Why, as a sentence."
    )
    observed_generation: int | None = Field(
        default=None, description="Generation of the spec this was said of."
    )
    last_transition_time: Annotated[
        str, Field(max_length=40, json_schema_extra={"format": "date-time"})
    ] = Field(description="When the status last changed.")
