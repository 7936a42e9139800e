"""When advice is remembered, and when it ends: design section 6, row by row."""

from collections.abc import Callable
from typing import Any

import pytest

from evenkeel_extender import app, protocol
from evenkeel_extender.assuming import TTL, Assumptions
from evenkeel_extender.protocol import Asked
from evenkeel_extender.state import State

Steps = list[tuple[Any, ...]]


@pytest.fixture
def run(world: Any, make: Any) -> Callable[[Steps], tuple[State, dict[str, str]]]:
    """Return a player of steps on the world's state; gives what is assumed at the end."""

    def play(steps: Steps) -> tuple[State, dict[str, str]]:
        state = world.state()
        pods = {name: make.read(make.pod(name, server="n1")) for name in ("a", "b")}
        for step in steps:
            match step:
                case ("filter", name, *nodes):
                    app.answer_filter(state, Asked(pods[name], tuple(nodes)))
                case ("prioritize", name, *nodes):
                    app.answer_prioritize(state, Asked(pods[name], tuple(nodes)))
                case ("snapshot", *ended):
                    state.swap(state.snapshot, {f"uid-{name}" for name in ended})
                case ("wait", seconds):
                    world.now += seconds
        return state, {a.pod.subtask: a.server for a in state.assumptions.others("")}

    return play


@pytest.mark.parametrize(
    ("steps", "assumed"),
    [
        ([("filter", "a", "n1", "n2")], {}),  # two are left: prioritize will be asked
        ([("filter", "a", "n2")], {"a": "n2"}),  # one is left: nothing more will be asked
        ([("filter", "a")], {}),
        ([("filter", "a", "n1", "n2"), ("prioritize", "a", "n1", "n2")], {"a": "n1"}),
        ([("prioritize", "a", "n2", "n3")], {"a": "n2"}),
        ([("filter", "a", "n2"), ("filter", "a", "n1", "n2")], {}),  # asked anew: dropped first
        ([("filter", "a", "n2"), ("filter", "b", "n1")], {"a": "n2", "b": "n1"}),
        ([("filter", "a", "n2"), ("snapshot", "a")], {}),  # bound or deleted
        ([("filter", "a", "n2"), ("snapshot", "b")], {"a": "n2"}),
        ([("filter", "a", "n2"), ("wait", TTL - 1)], {"a": "n2"}),
        ([("filter", "a", "n2"), ("wait", TTL)], {}),
        (
            [("filter", "a", "n2"), ("wait", TTL - 1), ("filter", "a", "n1"), ("wait", 2)],
            {"a": "n1"},
        ),
    ],
)
def test_the_rules(
    run: Callable[[Steps], tuple[State, dict[str, str]]], steps: Steps, assumed: dict[str, str]
) -> None:
    assert run(steps)[1] == assumed


def test_what_ran_out_is_forgotten_with_the_next_snapshot(run: Any) -> None:
    state, _ = run([("filter", "a", "n2"), ("wait", TTL + 1)])
    assert len(state.assumptions) == 1
    state.swap(state.snapshot, set())
    assert len(state.assumptions) == 0


def test_dropping_what_is_not_there_is_nothing() -> None:
    assumptions = Assumptions(lambda: 0.0)
    assumptions.drop("nobody")
    assumptions.settle(["nobody"])
    assert list(assumptions.others("")) == []


def test_two_pods_placed_before_either_is_bound_do_not_share_the_last_room(
    world: Any, make: Any
) -> None:
    world.pods = [make.pod("a", server="n1", cpu="4"), make.pod("b", server="n3", cpu="4")]
    state = world.state()
    first, second = (make.read(pod) for pod in world.pods)
    assert app.answer_filter(state, Asked(first, ("n1",))).NodeNames == ["n1"]
    result = app.answer_filter(state, Asked(second, ("n1", "n2")))
    assert result.NodeNames == ["n2"]
    assert result.FailedNodes["n1"].startswith("evenkeel: Busy: ")


def test_an_assumed_pod_no_longer_holds_what_it_was_planned_for(world: Any, make: Any) -> None:
    world.pods = [make.pod("a", server="n1", cpu="4"), make.pod("b", server="n3", cpu="4")]
    state = world.state()
    first, second = (make.read(pod) for pod in world.pods)
    app.answer_filter(state, Asked(first, ("n2",)))
    assert app.answer_filter(state, Asked(second, ("n1", "n2"))).NodeNames == ["n1"]


def test_the_answers_are_gos_json(world: Any, make: Any) -> None:
    state = world.state()
    pod = make.read(make.pod("a", server="n1"))
    found = protocol.encode(app.answer_prioritize(state, Asked(pod, ("n1",))))
    assert found == b'[{"Host":"n1","Score":10}]'
