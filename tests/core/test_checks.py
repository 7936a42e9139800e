"""Hard checks: each refuses what it should and nothing else."""

from dataclasses import replace

import pytest

from evenkeel_core import checks
from evenkeel_core.jobs import Constraints, Expression, Term, Toleration
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes, Work
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import Subtask, Variant

GPU = "nvidia.com/gpu"
PROCESSORS = Device("EPYC-7763", CPU, 1, Bytes(0), 5e12, 200e9)
L4 = Device("L4", GPU, 2, Bytes(24 * GIB), 121e12, 300e9)
SERVER = Server(
    "n1",
    {CPU: 8000, MEMORY: 32 * GIB, GPU: 2},
    PROCESSORS,
    (L4,),
    labels={"zone": "a", "slots": "7"},
    reserve={CPU: 1000},
)
SUBTASK = Subtask("t-0", "t", "t-0", 0, Work(1.0), (Variant("", {CPU: 7000, MEMORY: GIB}),))


def constrained(**constraints: object) -> Subtask:
    return replace(SUBTASK, constraints=Constraints(**constraints))  # type: ignore[arg-type]


def test_a_server_that_is_as_it_should_be_is_not_refused() -> None:
    assert checks.reason(SUBTASK, SERVER) is None


@pytest.mark.parametrize(
    ("subtask", "server", "reason"),
    [
        (SUBTASK, replace(SERVER, ready=False), Reason.SERVER_NOT_READY),
        (SUBTASK, replace(SERVER, schedulable=False), Reason.SERVER_CORDONED),
        (SUBTASK, replace(SERVER, taints=(Taint("gpu"),)), Reason.TAINT_NOT_TOLERATED),
        (constrained(node_selector={"zone": "b"}), SERVER, Reason.SELECTOR_MISMATCH),
        (replace(SUBTASK, server="n2"), SERVER, Reason.PINNED_ELSEWHERE),
        (
            replace(SUBTASK, variants=(Variant("amd.com/gpu", {}),)),
            SERVER,
            Reason.ENGINE_VARIANT_MISSING,
        ),
        (
            replace(SUBTASK, variants=(Variant(GPU, {}, "T4"),)),
            SERVER,
            Reason.ENGINE_VARIANT_MISSING,
        ),
        # 7.5 of 8 cores are there, 1 is reserved.
        (
            replace(SUBTASK, variants=(Variant("", {CPU: 7500}),)),
            SERVER,
            Reason.INSUFFICIENT_RESOURCE,
        ),
    ],
)
def test_the_first_check_that_fails_is_the_reason(
    subtask: Subtask, server: Server, reason: Reason
) -> None:
    assert checks.reason(subtask, server) is reason


def test_a_wish_is_no_taint() -> None:
    server = replace(SERVER, taints=(Taint("slow", effect="PreferNoSchedule"),))
    assert checks.reason(SUBTASK, server) is None


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration("gpu", "Equal", "yes"), True),
        (Toleration("gpu", "Equal", "no"), False),
        (Toleration("gpu", "Exists"), True),
        (Toleration("", "Exists"), True),
        (Toleration("gpu", "Exists", effect="NoExecute"), False),
        (Toleration("other", "Exists"), False),
    ],
)
def test_tolerations_match_as_kubernetes_does(toleration: Toleration, tolerated: bool) -> None:
    assert checks.tolerated(Taint("gpu", "yes"), (toleration,)) is tolerated


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        (Expression("zone", "In", ("a", "b")), True),
        (Expression("zone", "NotIn", ("a",)), False),
        (Expression("rack", "NotIn", ("a",)), True),
        (Expression("rack", "Exists"), False),
        (Expression("rack", "DoesNotExist"), True),
        (Expression("slots", "Gt", ("6",)), True),
        (Expression("slots", "Lt", ("7",)), False),
        (Expression("zone", "Gt", ("1",)), False),
        (Expression("metadata.name", "In", ("n1",), field=True), True),
    ],
)
def test_expressions_hold_as_kubernetes_says(expression: Expression, holds: bool) -> None:
    assert checks.holds((expression,), SERVER) is holds


def test_one_of_several_terms_is_enough_and_an_empty_one_never_holds() -> None:
    here: Term = (Expression("zone", "In", ("a",)),)
    there: Term = (Expression("zone", "In", ("b",)),)
    assert checks.reason(constrained(required=(there, here)), SERVER) is None
    assert checks.reason(constrained(required=(there, ())), SERVER) is Reason.SELECTOR_MISMATCH


def test_the_first_variant_that_fits_is_used() -> None:
    large, small = Variant(GPU, {GPU: 4}, "L4"), Variant(CPU, {CPU: 2000})
    subtask = replace(SUBTASK, variants=(large, small))
    assert checks.variant(subtask, SERVER) is small
    assert checks.nearest_shortage(replace(SUBTASK, variants=(large,)), SERVER) == {GPU: 2}
