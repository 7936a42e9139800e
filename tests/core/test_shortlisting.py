import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import game
from evenkeel_core.problems import NOWHERE
from evenkeel_core.shortlisting import shortlists

WEIGHTS = {"balance": 0.1, "scale": 10.0}


def compared(problem, assignment, subtask, count):
    """Return shortlist, runner-up and regret from the utility on every server."""
    utility = sum(game.utilities(problem, assignment, **WEIGHTS))[subtask]
    here = int(assignment[subtask])
    others = [server for server in np.argsort(-utility, kind="stable") if server != here]
    others = [int(server) for server in others if np.isfinite(utility[server])]
    taken = problem.demand[subtask][problem.kind]
    same = [server for server in others if (taken[server] == taken[here]).all()]
    runner = others[0] if others else NOWHERE
    regret = utility[here] - utility[runner] if others else 0.0
    return [here, *same[: count - 1]], runner, regret


@given(
    seed=st.integers(0, 2**32 - 1),
    tasks=st.integers(1, 12),
    servers=st.integers(1, 14),
    kinds=st.integers(1, 5),
    edges=st.sampled_from([0.0, 0.2]),
    pins=st.sampled_from([0.0, 0.3]),
    count=st.integers(1, 6),
    idle=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_the_shortlist_is_that_of_the_utility_on_every_server(
    make_problem, seed, tasks, servers, kinds, edges, pins, count, idle
):
    problem = make_problem(seed, tasks=tasks, servers=servers, kinds=kinds, edges=edges, pins=pins)
    start = np.full(tasks, NOWHERE)
    assignment = game.equilibrium(problem, start, **WEIGHTS).assignment
    if idle:  # not an equilibrium: everything where it may be first
        assignment = np.argmin(np.where(np.isfinite(problem.cost), 0, 1), axis=1)
        assignment = game.seated(problem, assignment)

    found = shortlists(problem, assignment, **WEIGHTS, count=count)

    parts = game.utilities(problem, assignment, **WEIGHTS)
    own = np.stack([part[np.arange(tasks), assignment] for part in parts], axis=1)
    np.testing.assert_allclose(found.terms, own, rtol=1e-9)
    for subtask in range(tasks):
        order, runner, regret = compared(problem, assignment, subtask, count)
        servers_ = [server for server in found.servers[subtask].tolist() if server != NOWHERE]
        assert servers_ == order
        assert found.runner_up[subtask] == runner
        assert found.regret[subtask] == pytest.approx(regret, rel=1e-6, abs=1e-9)


def test_ties_go_to_the_first_servers(problem_of):
    problem = problem_of([[2.0] * 6])

    found = shortlists(problem, np.array([3]), balance=1.0, scale=1.0, count=4)

    assert found.servers.tolist() == [[3, 0, 1, 2]]
    assert found.runner_up.tolist() == [0]
