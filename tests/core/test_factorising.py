import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core.factorising import factorise

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, rank=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_an_exact_low_rank_matrix_is_recovered(make_problem, seed, rank):
    problem = make_problem(seed, tasks=30, servers=12, rank=rank, infeasible=0.0)

    factors = factorise(problem, energy=1.0)

    assert factors.rank <= rank
    assert factors.error < 1e-6
    assert factors.explained > 1 - 1e-9
    fitted = factors.mean + factors.row[:, None] + factors.column
    fitted = fitted + factors.task_factors @ factors.server_factors.T
    np.testing.assert_allclose(np.exp(fitted), problem.compute, rtol=1e-5)


@given(seed=seeds, rank=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_missing_entries_of_a_low_rank_matrix_are_completed(make_problem, seed, rank):
    problem = make_problem(seed, tasks=60, servers=30, rank=rank, measured=0.7, infeasible=0.05)
    gaps = np.isfinite(problem.compute) & ~problem.measured
    # What the solver must not see: the true times of the gaps.
    hidden = problem.with_pairs(compute=np.where(gaps, 1.0, problem.compute))

    factors = factorise(hidden, energy=0.9999)

    error = np.abs(factors.completed[gaps] / problem.compute[gaps] - 1)
    assert factors.rank <= rank
    assert np.quantile(error, 0.95) < 0.01


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_the_gaps_of_a_noisy_matrix_are_not_filled_with_its_noise(make_problem, seed):
    """Five percent of noise on rank 2: the rank must not grow to explain it."""
    problem = make_problem(seed, tasks=60, servers=30, rank=2, measured=0.7, infeasible=0.05)
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.05, problem.compute.shape))
    gaps = np.isfinite(problem.compute) & ~problem.measured

    factors = factorise(problem.with_pairs(compute=problem.compute * noise))

    assert factors.rank <= 2
    assert np.median(np.abs(factors.completed[gaps] / problem.compute[gaps] - 1)) < 0.05


def test_measured_times_are_kept_and_impossible_pairs_stay_impossible(make_problem):
    problem = make_problem(1, tasks=20, servers=8, measured=0.6, infeasible=0.3)

    factors = factorise(problem)

    known = problem.measured
    assert (factors.completed[known] == problem.compute[known]).all()
    assert (np.isfinite(factors.completed) == np.isfinite(problem.compute)).all()
    assert (factors.confidence[known] == 1).all()
    assert (factors.confidence[~np.isfinite(problem.compute)] == 0).all()


def test_more_measurements_give_more_confidence(make_problem):
    few = factorise(make_problem(2, tasks=40, servers=20, measured=0.3))
    many = factorise(make_problem(2, tasks=40, servers=20, measured=0.8))

    def typical(factors):
        between = (factors.confidence > 0) & (factors.confidence < 1)
        return np.median(factors.confidence[between])

    assert 0 < typical(few) < typical(many) < 1


def test_a_server_nothing_is_known_of_keeps_the_figures_given(make_problem):
    problem = make_problem(4, tasks=20, servers=6, infeasible=0.0)
    measured = problem.measured.copy()
    measured[:, 2] = False

    factors = factorise(problem.with_pairs(measured=measured))

    assert (factors.completed[:, 2] == problem.compute[:, 2]).all()
    assert (factors.confidence[:, 2] == 0).all()


def test_with_nothing_measured_the_figures_given_count(make_problem):
    problem = make_problem(4, tasks=20, servers=6, measured=0.0)

    assert (factorise(problem).completed == problem.compute).all()


def test_the_unit_of_time_does_not_matter(make_problem):
    problem = make_problem(5, tasks=20, servers=8, measured=0.8)
    milli = problem.with_pairs(compute=problem.compute * 1000)

    seconds, milliseconds = factorise(problem), factorise(milli)

    np.testing.assert_allclose(milliseconds.completed, seconds.completed * 1000, rtol=1e-6)
    assert milliseconds.rank == seconds.rank


def test_alike_servers_and_alike_subtasks_share_a_class(make_problem):
    problem = make_problem(6, tasks=12, servers=9, kinds=3, infeasible=0.0)
    twice = problem.with_pairs(
        compute=np.concatenate([problem.compute[:6], 2 * problem.compute[:6]])
    )

    factors = factorise(twice)

    same = problem.rate[:, None] == problem.rate  # drawn once a kind
    assert ((factors.server_class[:, None] == factors.server_class) == same).all()
    # Twice the size is still alike: it suits the same servers.
    assert (factors.task_class[:6] == factors.task_class[6:]).all()


def test_subtasks_that_may_not_run_on_the_same_servers_are_not_alike(problem_of):
    problem = problem_of([[1, 2, 3], [1, 2, 3], [1, 2, np.inf]])

    assert factorise(problem).task_class.tolist() == [0, 0, 1]


def test_times_that_are_work_over_speed_are_explained_by_the_means(problem_of):
    problem = problem_of(np.outer([1.0, 2.0, 5.0], [4.0, 3.0, 1.0]))

    factors = factorise(problem)

    assert (factors.rank, factors.explained) == (1, 1.0)
    np.testing.assert_allclose(factors.task_factors @ factors.server_factors.T, 0, atol=1e-9)
    np.testing.assert_allclose(np.exp(factors.column - factors.column[2]), [4, 3, 1])


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (3, 1), (1, 3)])
def test_the_smallest_problems_are_factorised(problem_of, shape):
    cost = [[float(row + column + 1) for column in range(shape[1])] for row in range(shape[0])]
    problem = problem_of(np.array(cost).reshape(shape))

    factors = factorise(problem)

    np.testing.assert_allclose(factors.completed, problem.compute)


@pytest.mark.parametrize(("name", "value"), [("energy", 0.0), ("energy", 1.5), ("max_rank", 0)])
def test_a_wrong_call_names_the_argument(make_problem, name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        factorise(make_problem(0), **{name: value})


def test_the_same_problem_gives_the_same_factors(make_problem):
    problem = make_problem(7, tasks=30, servers=10, measured=0.7)

    assert (factorise(problem).completed == factorise(problem).completed).all()


def test_a_gap_is_filled_by_what_alike_subtasks_show_beyond_the_factors(make_problem):
    """Pairs of equal subtasks, each with a step of its own that no low rank explains."""
    problem = make_problem(4, tasks=40, servers=12, rank=1, infeasible=0.0)
    random = np.random.default_rng(4)
    steps = np.exp(random.choice([-0.1, 0.1], problem.compute.shape))
    compute = (problem.compute * steps)[np.arange(40) // 2 * 2]
    # Equal but for a thousandth: not the same row, which would be factorised once.
    compute = compute * np.exp(random.normal(0, 0.001, (40, 1)))
    measured = np.ones(compute.shape, dtype=bool)
    measured[np.arange(0, 40, 2), random.integers(0, 12, 20)] = False

    factors = factorise(
        problem.with_pairs(compute=np.where(measured, compute, 1.0), measured=measured)
    )

    error = np.abs(factors.completed / compute - 1)[~measured]
    fitted = factors.mean + factors.row[:, None] + factors.column
    fitted = fitted + factors.task_factors @ factors.server_factors.T
    without = np.abs(np.exp(fitted) / compute - 1)[~measured]
    assert np.median(error) < np.median(without) / 2
