import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import queueing, timetabling
from evenkeel_core.verifying import verify_assignment


@given(
    seed=st.integers(0, 2**32 - 1),
    tasks=st.integers(1, 60),
    servers=st.integers(1, 4),
    kinds=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_each_server_alone_starts_what_the_simulation_of_all_starts(
    make_problem, seed, tasks, servers, kinds
):
    """Costs rounded to whole seconds, so that many end and start at the same moment."""
    problem = make_problem(seed, tasks=tasks, servers=servers, kinds=kinds)
    problem = problem.with_pairs(cost=np.ceil(problem.cost))
    places = np.argmin(problem.cost, axis=1)
    duration = timetabling.durations(problem, places)
    run = timetabling._Run(problem, places, None)
    run.simulate()

    start = queueing.starts(problem, places, duration)

    np.testing.assert_array_equal(start, run.start)
    times = timetabling.timetable(problem, places)
    assert verify_assignment(problem, places, times) == ()
