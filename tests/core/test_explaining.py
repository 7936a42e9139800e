"""Plans are told as they are: nothing infinite, nothing left out, reasons that are true."""

import json
from dataclasses import replace

import pytest

from evenkeel_core import explaining, facts, planning
from evenkeel_core.jobs import Engine, Inference, Job, Parallelism, Requests, Task, Template
from evenkeel_core.plans import Plan
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes, Seconds
from evenkeel_core.servers import Device, Server


def server(name: str, speed: float = 1.0, memory: int = 64, **more: object) -> Server:
    processors = Device("P", CPU, 1, Bytes(0), 2.5e12 * speed, 100e9 * speed)
    room = {CPU: 32_000, MEMORY: memory * GIB}
    return Server(name, room, processors, **more)  # type: ignore[arg-type]


def planned(servers: list[Server], *, model: str = "llama-3.1-8b-q4_k_m", shards: int = 4) -> Plan:
    found = facts.model(model)
    assert found is not None
    work = Inference(
        found, Engine.SIMULATOR, Requests(20, 300.0, 100.0), parallelism=Parallelism(data=shards)
    )
    return planning.plan(Job("default/j", "u", (Task("batch", work, None),)), servers)


RACK = [server("fast", 4.0), server("slow"), server("away", ready=False)]


def test_every_subtask_has_a_row_and_a_reason() -> None:
    made = planned(RACK)
    rows = explaining.rows(made)
    assert [row.name for row in rows] == [subtask.name for subtask in made.graph.subtasks]
    assert all(row.why for row in rows)
    assert all(row.terms.utility <= 0 for row in rows)


def test_the_reason_tells_the_seconds_saved() -> None:
    (row,) = explaining.rows(planned(RACK, shards=1))
    assert row.server == "fast"
    assert row.runner_up == "slow"
    assert row.runner_up_seconds is not None
    assert row.why == f"takes {row.runner_up_seconds - row.seconds:.1f} s less than on slow"


def test_a_tie_is_called_a_tie() -> None:
    (row,) = explaining.rows(planned([server("a"), server("b")], shards=1))
    assert row.why == "no better than b: a tie"


def test_where_there_is_no_choice_that_is_the_reason() -> None:
    (row,) = explaining.rows(planned([server("a")], shards=1))
    assert (row.runner_up, row.regret, row.why) == (None, 0.0, "no other server may run it")


def test_a_stage_was_sized_for_its_server() -> None:
    made = planned(
        [server(f"n{i}", memory=24) for i in range(3)], model="llama-3.1-70b-q4_k_m", shards=1
    )
    rows = explaining.rows(made)
    assert len(rows) == 3
    assert all("sized for" in row.why and row.layers is not None for row in rows)


def test_alternatives_begin_with_the_shortlist_and_name_every_server() -> None:
    made = planned(RACK)
    found = explaining.alternatives(made, "batch-0")
    assert {item.server for item in found} == {"fast", "slow", "away"}
    assert [item.place for item in found] == [1, 2, None]
    assert found[-1].seconds is None
    with pytest.raises(ValueError, match="`subtask`"):
        explaining.alternatives(made, "other")


def test_shares_sum_up_the_plan() -> None:
    made = planned(RACK, shards=8)
    found = explaining.shares(made)
    assert sum(share.subtasks for share in found) == 8
    assert max(share.end for share in found) == pytest.approx(made.makespan)
    assert [share.busy for share in found] == sorted((s.busy for s in found), reverse=True)


@pytest.mark.parametrize("servers", [RACK, RACK[2:], []])
def test_a_document_is_json_whatever_the_plan(servers: list[Server]) -> None:
    made = planned(servers)
    document = json.loads(json.dumps(explaining.document(made), allow_nan=False))
    assert document["feasible"] == made.feasible
    assert bool(document["refusals"]) != made.feasible
    assert len(document["subtasks"]) == len(made.assignments)


def test_the_matrix_has_each_class_once() -> None:
    work = Template({CPU: 1000}, Seconds(5.0))
    twins = [*RACK, replace(RACK[1], name="slow-2")]
    made = planning.plan(Job("default/t", "u", (Task("t", work, 6),)), twins)
    found = json.loads(json.dumps(explaining.matrix(made), allow_nan=False))
    assert found["subtasks"] == [[f"t-{n}" for n in range(6)]]
    assert sorted(map(sorted, found["servers"])) == [["away"], ["fast", "slow", "slow-2"]]
    assert sorted(found["seconds"][0], key=str) == [5.0, None]
