"""Chaos sees what must not happen: each is put before it here."""

from collections.abc import Callable
from typing import Any

import pytest

from evenkeel_core import planning
from evenkeel_kube import jobs, names, racks
from evenkeel_kube.plans import Record
from evenkeel_kube.pods import pod_name
from evenkeel_sandbox import judging
from evenkeel_sandbox.judging import Ledger

CONTAINER = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "50m"}}}
SPEC = {
    "tasks": [{"name": "t", "shards": 2, "template": {"spec": {"containers": [CONTAINER]}}}],
}
FIRST, SECOND, RETRY = (
    pod_name({"name": "j", "uid": "u"}, subtask, attempt)
    for subtask, attempt in (("t-0", 1), ("t-1", 1), ("t-0", 2))
)
RAN = [f"{FIRST} begins", f"{FIRST} ends", f"{SECOND} begins", f"{SECOND} ends"]


def job(completed: str, succeeded: str = "Unknown") -> dict[str, Any]:
    condition = {"type": "Succeeded", "status": succeeded, "reason": "R"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": {"name": "j", "namespace": "default", "uid": "u"},
        "spec": SPEC,
        "status": {"completed": completed, "conditions": [condition]},
    }


@pytest.fixture
def record() -> Callable[..., Record]:
    rack = racks.read("- {name: a, cpu: 4, memory: 8Gi}").servers()
    plan = planning.plan(jobs.job(job("")), rack)

    def made(**attempts: int) -> Record:
        return Record(1, plan, {name.replace("_", "-"): n for name, n in attempts.items()})

    return made


def pod(uid: str, subtask: str = "t-0", **more: Any) -> dict[str, Any]:
    labels = {names.LABEL_JOB: "j", names.LABEL_SUBTASK: subtask}
    return {"metadata": {"name": uid, "uid": uid, "labels": labels}, "spec": {}, **more}


def test_a_retry_before_the_end_is_fine(record: Callable[..., Record]) -> None:
    ledger = Ledger()
    ledger.look([pod("a")], [job("")], {"j": record()})
    ledger.look([pod("a"), pod("b")], [job("")], {"j": record(t_0=2)})
    ledger.look([pod("a"), pod("b")], [job("0")], {"j": record(t_0=2)})
    ledger.look([pod("b"), pod("c", "t-1")], [job("0-1")], {"j": record(t_0=2)})
    assert ledger.wrong == []


def test_a_completion_that_is_taken_back_is_seen(record: Callable[..., Record]) -> None:
    ledger = Ledger()
    ledger.look([], [job("0-1")], {"j": record()})
    ledger.look([], [job("0")], {"j": record()})
    assert ledger.wrong == ["j: t-1 had completed and have not"]


def test_a_second_accepted_completion_is_seen(record: Callable[..., Record]) -> None:
    ledger = Ledger()
    ledger.look([], [job("0")], {"j": record()})
    ledger.look([], [job("0")], {"j": record(t_0=2)})
    (wrong,) = ledger.wrong
    assert "t-0 was accepted of attempt 1 and again of attempt 2" in wrong


def test_a_pod_that_comes_after_the_completion_is_seen(record: Callable[..., Record]) -> None:
    """Under the same name: the names of the pods of an attempt are the same."""
    ledger = Ledger()
    ledger.look([pod("a")], [job("0")], {"j": record()})
    again = pod("b")
    again["metadata"]["name"] = "a"
    ledger.look([again], [job("0")], {"j": record()})
    assert ledger.wrong == ["j: t-0 was run again as pod a"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (RAN, None),
        ([*RAN, f"{RETRY} begins", f"{RETRY} ends"], None),  # a stale attempt may run to its end
        (RAN[:3], "t-1 began 1 times and ended 0 times"),
        (RAN + RAN[:2], "t-0 began 2 times and ended 2 times"),
    ],
)
def test_what_was_accepted_must_have_run_once(
    record: Callable[..., Record], lines: list[str], said: str | None
) -> None:
    found = list(judging.whole(job("0-1", "True"), record(), lines))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_the_accepted_attempt_is_the_one_that_must_have_run(record: Callable[..., Record]) -> None:
    (said,) = judging.whole(job("0-1", "True"), record(t_0=2), RAN)
    assert "the accepted attempt 2 of t-0 began 0 times" in said


def test_a_job_that_did_not_succeed_or_not_wholly_is_told_of(
    record: Callable[..., Record],
) -> None:
    assert next(judging.whole(job("0-1"), record(), RAN)).startswith("j is Pending")
    assert next(judging.whole(job("0", "True"), record(), RAN)) == "j has succeeded without t-1"


def test_only_what_began_has_run() -> None:
    lines = [*RAN, "other-t-0-a1 begins", f"{FIRST} begins"]
    assert judging.runs(lines, "j") == [FIRST, SECOND, FIRST]


@pytest.mark.parametrize(
    ("found", "held"),
    [
        (pod("a", status={"phase": "Succeeded"}), None),
        (pod("a") | {"spec": {"schedulingGates": [{"name": names.GATE}]}}, "gate"),
        (pod("a"), "reserves"),
        (pod("a") | {"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}, "still runs on n"),
    ],
)
def test_what_a_pod_of_an_ended_job_holds(found: dict[str, Any], held: str | None) -> None:
    said = judging.unsettled(found)
    assert (said is None) == (held is None)
    assert held is None or held in str(said)
    found["metadata"]["finalizers"] = [names.FINALIZER]
    assert "finalizer" in str(judging.unsettled(found))
