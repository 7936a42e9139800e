"""What a job and its pods say of themselves, read in one place."""

from typing import Any

import pytest

from evenkeel_kube import statuses


def test_a_job_that_says_nothing_is_pending() -> None:
    for job in ({}, {"status": None}, {"status": {"conditions": None}}):
        assert statuses.state(job) == "Pending"
        assert statuses.condition(job, "Planned") == {}
        assert statuses.indexes((job.get("status") or {}).get("completed")) == frozenset()


def test_a_condition_is_found_by_its_type() -> None:
    failed = {"type": "Failed", "status": "False"}
    job = {"status": {"state": "Running", "conditions": [{"type": "Planned"}, failed]}}
    assert statuses.condition(job, "Failed") == failed
    assert statuses.state(job) == "Running"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", set()), ("3", {3}), ("0-2,7", {0, 1, 2, 7}), ("x,1-y,4", {4})],
)
def test_index_ranges_are_read(text: str, numbers: set[int]) -> None:
    assert statuses.indexes(text) == numbers


def container(start: int | None, end: int) -> dict[str, Any]:
    stamp = "2026-01-01T00:00:{:02}Z"
    ended = {"finishedAt": stamp.format(end)}
    if start is not None:
        ended["startedAt"] = stamp.format(start)
    return {"state": {"terminated": ended}}


@pytest.mark.parametrize(
    ("containers", "seconds"),
    [
        ([], None),
        ([container(2, 5)], 3),
        ([container(2, 5), container(1, 9)], 8),
        ([container(2, 5), {"state": {"running": {}}}], None),
        ([container(2, 5), {}], None),
        ([container(None, 5)], None),
    ],
)
def test_a_pod_took_from_its_first_start_to_its_last_end(
    containers: list[Any], seconds: float | None
) -> None:
    assert statuses.seconds({"status": {"containerStatuses": containers}}) == seconds


def test_what_never_started_took_no_time() -> None:
    ended = {"startedAt": "1970-01-01T00:00:00Z", "finishedAt": "2026-11-25T00:00:00Z"}
    pod = {"status": {"containerStatuses": [{"state": {"terminated": ended}}]}}
    assert statuses.seconds(pod) is None
