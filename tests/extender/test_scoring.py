"""Filtering and scoring as pure functions of a snapshot."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenkeel_core import planning
from evenkeel_core.jobs import Constraints
from evenkeel_core.reasons import Reason
from evenkeel_extender import scoring
from evenkeel_extender.assuming import Assumption
from evenkeel_kube import jobs, names, nodes, plans

ALL = ("n1", "n2", "n3")
Scores = dict[str, int]


def scored(snapshot: Any, pod: Any, *candidates: str, assumed: Any = ()) -> Scores:
    found = scoring.prioritized(snapshot, pod, candidates or ALL, assumed)
    return {item.Host: item.Score for item in found}


# Filtering


def test_a_quiet_cluster_refuses_nothing(world: Any, make: Any) -> None:
    pod = make.read(world.pods[0])
    assert scoring.refusals(world.snapshot(), pod, ALL, ()) == {}


def test_hard_checks_come_with_their_reason(world: Any, make: Any) -> None:
    cordoned = make.node("n1", unschedulable=True)
    tainted = make.node("n2", taints=[{"key": "t", "effect": "NoSchedule"}])
    away = make.node("n3")
    away["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    small = make.node("n4", cpu="500m")
    labelled = make.node("n5", labels={"x": "y"})
    world.nodes = [cordoned, tainted, away, small, labelled]
    found = scoring.refusals(
        world.snapshot(), make.read(world.pods[0]), ("n1", "n2", "n3", "n4", "n5", "new"), ()
    )
    assert found == {
        "n1": Reason.SERVER_CORDONED,
        "n2": Reason.TAINT_NOT_TOLERATED,
        "n3": Reason.SERVER_NOT_READY,
        "n4": Reason.INSUFFICIENT_RESOURCE,
    }


def test_what_the_user_and_the_plan_demand_holds(world: Any, make: Any) -> None:
    costs, where = {"a": dict.fromkeys(ALL, 1.0)}, {"a": "n1"}
    pod = make.read(world.pods[0])
    world.records = [make.record(costs, where, constraints=Constraints({"x": "y"}))]
    assert set(scoring.refusals(world.snapshot(), pod, ALL, ()).values()) == {
        Reason.SELECTOR_MISMATCH
    }
    world.records = [make.record(costs, where, server="n1")]
    assert scoring.refusals(world.snapshot(), pod, ALL, ()) == {
        "n2": Reason.PINNED_ELSEWHERE,
        "n3": Reason.PINNED_ELSEWHERE,
    }


@pytest.mark.parametrize(
    ("others", "busy"),
    [
        ([], False),
        ([{"node": "n1", "cpu": "6"}], False),  # 8 less the reserve of 0.8 less 6 leaves 1.2
        ([{"node": "n1", "cpu": "6500m"}], True),
        ([{"node": "n1", "cpu": "6500m", "phase": "Succeeded"}], False),
        ([{"server": "n1", "cpu": "6500m"}], True),  # released: reserved
        ([{"server": "n1", "cpu": "6500m", "gated": True}], False),  # may wait for long yet
        ([{"server": "n1", "node": "n2", "cpu": "6500m"}], False),  # bound elsewhere
        ([{"server": "gone", "cpu": "6500m"}], False),
    ],
)
def test_what_is_taken_and_reserved_is_not_free(
    world: Any, make: Any, others: list[dict[str, Any]], busy: bool
) -> None:
    world.pods = [make.pod("a", server="n1")]
    world.pods += [make.pod("b", uid=f"uid-{i}", **other) for i, other in enumerate(others)]
    found = scoring.refusals(world.snapshot(), make.read(world.pods[0]), ALL, ())
    assert found.get("n1") == (Reason.BUSY if busy else None)


def test_strangers_shrink_the_server_itself(world: Any, make: Any) -> None:
    world.pods += [make.pod(uid="uid-x", node="n1", cpu="7")]
    found = scoring.refusals(world.snapshot(), make.read(world.pods[0]), ALL, ())
    assert found == {"n1": Reason.INSUFFICIENT_RESOURCE}


def test_its_own_reservation_never_counts_against_a_pod(world: Any, make: Any) -> None:
    world.pods = [make.pod("a", server="n1", cpu="7")]
    own = make.read(world.pods[0])
    assert scoring.refusals(world.snapshot(), own, ALL, ()) == {}
    other = make.read(make.pod("b", server="n2", cpu="1"))
    assert scoring.refusals(world.snapshot(), other, ALL, ()) == {"n1": Reason.BUSY}


def test_a_pod_without_a_plan_is_judged_by_capacity(world: Any, make: Any) -> None:
    stranger = make.read(make.pod(cpu="7"))
    world.nodes.append(make.node("n4", cpu="4", unschedulable=True))
    found = scoring.refusals(world.snapshot(), stranger, (*ALL, "n4"), ())
    assert found == {**dict.fromkeys(ALL, Reason.BUSY), "n4": Reason.INSUFFICIENT_RESOURCE}
    assert scored(world.snapshot(), stranger) == dict.fromkeys(ALL, 0)


# Scoring


def test_the_planned_server_is_best_and_the_rest_are_ordered(world: Any, make: Any) -> None:
    snapshot = world.snapshot()
    # 1 + 0.1·10 on n1, 2 + 0.1·20 on n2, 4 + 0.1·20 on n3: n2 is half way, of nine steps.
    assert scored(snapshot, make.read(world.pods[0])) == {"n1": 10, "n2": 4, "n3": 0}
    assert scored(snapshot, make.read(world.pods[2]))["n3"] == 10


def test_without_the_planned_server_the_best_response_is_named(world: Any, make: Any) -> None:
    pod = make.read(world.pods[2])
    assert scored(world.snapshot(), pod, "n1", "n2")["n1"] == 10  # alike: the first by name
    world.pods.append(make.pod("d", uid="uid-d", node="n1", work=5))
    assert scored(world.snapshot(), pod, "n1", "n2")["n2"] == 10


def test_what_is_assumed_counts_as_load(world: Any, make: Any) -> None:
    pod, other = make.read(world.pods[2]), make.read(make.pod("d", uid="uid-d", work=5))
    assumed = [Assumption(other, "n1", 999.0)]
    assert scored(world.snapshot(), pod, "n1", "n2", assumed=assumed)["n2"] == 10


def test_a_small_gain_is_no_reason_to_leave_the_plan(world: Any, make: Any) -> None:
    pod = make.read(world.pods[0])
    world.pods.append(make.pod("x", uid="uid-x", node="n1", work=20 + 2))
    # On n1: 1 + 0.1 (22 + 10) = 4.2; on n2: 2 + 0.1 (10 + 10) = 4.0; ĉ = 10, λ = 0.1.
    assert scored(world.snapshot(), pod)["n1"] == 10
    world.pods.append(make.pod("y", uid="uid-y", node="n1", work=2))
    found = scored(world.snapshot(), pod)
    assert found["n2"] == 10
    assert found["n1"] < 10


def test_nodes_the_plan_did_not_know_come_last(world: Any, make: Any) -> None:
    world.nodes.append(make.node("n4"))
    pod = make.read(world.pods[0])
    assert scored(world.snapshot(), pod, "n4", "n3", "unheard-of") == {
        "n4": 0,
        "n3": 10,
        "unheard-of": 0,
    }
    assert scored(world.snapshot(), pod, "n4", "unheard-of") == {"n4": 10, "unheard-of": 0}
    assert scored(world.snapshot(), pod, "n2") == {"n2": 10}
    assert scoring.prioritized(world.snapshot(), pod, (), ()) == []


def test_the_edges_pull_towards_the_neighbours(world: Any, make: Any) -> None:
    costs = {"a": dict.fromkeys(ALL, 10.0), "b": {"n3": 10.0}}
    where = {"a": "n1", "b": "n3"}
    # 1e9 bytes at 125e6 bytes/s are 8 s, over ĉ·w = 100 that is 0.08; load counts 0.1·10.
    world.records = [make.record(costs, where, edges=[("a", "b", 10**9)])]
    world.pods = [make.pod("a", server="n1"), make.pod("b", server="n3", node="n2", work=0)]
    snapshot, pod = world.snapshot(), make.read(make.pod("a"))
    terms = scoring.utilities(snapshot, pod, ALL, ())
    assert terms is not None
    assert [term.edges for term in terms] == pytest.approx([-0.080004, 0.0, -0.080004])
    # Before its pod is there, the neighbour is where the plan has it.
    world.pods = []
    terms = scoring.utilities(world.snapshot(), pod, ALL, ())
    assert terms is not None
    assert [term.edges for term in terms] == pytest.approx([-0.080004, -0.080004, 0.0])


finite = st.floats(0, 1e6)


@given(
    costs=st.lists(st.one_of(finite, st.just(float("inf"))), min_size=1, max_size=6),
    loads=st.lists(finite, min_size=6, max_size=6),
    planned=st.integers(0, 5),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ten_goes_to_exactly_one_and_the_order_is_kept(
    make: Any, costs: list[float], loads: list[float], planned: int
) -> None:
    servers = [f"n{index}" for index in range(len(costs))]
    wanted = servers[planned % len(servers)]
    row = dict(zip(servers, costs, strict=True))
    world = make.world(
        [make.node(name) for name in servers],
        [
            make.pod("x", uid=f"uid-{name}", node=name, work=load, cpu="1m")
            for name, load in zip(servers, loads, strict=False)
        ],
        [make.record({"a": row}, {"a": wanted})],
    )
    snapshot, pod = world.snapshot(), make.read(make.pod("a"))
    found = scored(snapshot, pod, *servers)
    assert sorted(found.values())[-1] == 10
    assert all(0 <= score <= 9 for score in sorted(found.values())[:-1])
    terms = scoring.utilities(snapshot, pod, servers, ())
    assert terms is not None
    value = {name: term.utility for name, term in zip(servers, terms, strict=True)}
    top = max(found, key=lambda name: found[name])
    assert top == wanted or value[top] >= max(value.values()) - scoring.INERTIA
    rest = [name for name in servers if name != top]
    for left in rest:
        for right in rest:
            assert value[left] <= value[right] or found[left] >= found[right]


# The planner and the extender play the same game


def inference(count: int) -> Any:
    return {
        "model": {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"},
        "runtime": {"engine": "simulator"},
        "parallelism": {"data": count},
        "input": {"prompts": [f"prompt {n} " + "x" * 50 * n for n in range(2 * count)]},
    }


def dag() -> Any:
    template = {
        "spec": {
            "containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}]
        }
    }
    common = {"template": template, "estimatedSeconds": 60, "outputBytes": 10**10}
    return {
        "tasks": [
            {"name": "one", "shards": 7, **common},
            {"name": "two", "shards": 2, "dependsOn": ["one"], **common},
        ]
    }


@pytest.mark.parametrize("spec", [inference(9), dag()], ids=["inference", "dag"])
def test_at_the_equilibrium_the_extender_says_what_the_planner_said(make: Any, spec: Any) -> None:
    job = jobs.job(
        {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceJob",
            "metadata": {"name": "job", "namespace": "default", "uid": "job-uid"},
            "spec": spec,
        }
    )
    found = [make.node(f"n{n}", cpu=str(8 + 8 * (n % 3))) for n in range(6)]
    plan = planning.plan(job, nodes.servers(found))
    assert plan.feasible
    work = {subtask.name: subtask.work for subtask in plan.graph.subtasks}
    # Every pod is there, gated or not: they are created together.
    begun = plan.assignments
    record = plans.Record(1, plan, {place.subtask: 1 for place in begun})
    pods = [
        make.pod(place.subtask, server=place.server, work=work[place.subtask], gated=bool(n % 2))
        for n, place in enumerate(begun)
    ]
    snapshot = make.world(found, pods, [record]).snapshot()
    for place, pod in zip(begun, pods, strict=True):
        asked = make.read(json.loads(json.dumps(pod)))
        terms = scoring.utilities(snapshot, asked, plan.servers, ())
        assert terms is not None
        here = terms[plan.servers.index(place.server)]
        assert here.cost == pytest.approx(place.terms.cost)
        assert here.load == pytest.approx(place.terms.load)
        assert here.edges == pytest.approx(place.terms.edges, abs=1e-12)
        if plan.stable:
            best = max(term.utility for term in terms)
            assert here.utility == pytest.approx(best)
        assert scored(snapshot, asked, *plan.servers)[place.server] == 10


def test_utilities_are_numbers_json_can_carry(world: Any, make: Any) -> None:
    rows = scoring.explained(world.snapshot(), make.read(world.pods[0]), ())
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["server"] for row in rows] == ["n1", "n2", "n3"]
    assert rows[0]["planned"]
    assert rows[0]["score"] == 10
    assert np.isclose(rows[0]["utility"], rows[0]["cost"] + rows[0]["edges"] + rows[0]["load"])


def test_explaining_shows_refusals_last_with_their_reason(world: Any, make: Any) -> None:
    world.nodes[0] = make.node("n1", unschedulable=True)
    rows = scoring.explained(world.snapshot(), make.read(world.pods[0]), ())
    assert [row["server"] for row in rows] == ["n2", "n3", "n1"]
    assert (rows[-1]["refused"], rows[-1]["score"]) == ("ServerCordoned", None)
    stranger = scoring.explained(world.snapshot(), make.read(make.pod()), ())
    assert stranger[0]["utility"] is None
