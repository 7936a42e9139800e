"""What is learnt from observed times: right by hand, never above the ceiling, hard to mislead."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from evenkeel_core import calibrating, costs, facts
from evenkeel_core.calibrating import GUARD, SPREAD, Observation
from evenkeel_core.costs import Effort, Speed
from evenkeel_core.efficiencies import Efficiency, Estimate, Setting, estimate
from evenkeel_core.models import Model
from evenkeel_core.quantities import CPU, Bytes
from evenkeel_core.servers import Device, Server

ALL = Efficiency(1.0, 1.0, 0.0)
GPU = Speed(1e14, 1e12, ALL, processor=False)
PROCESSORS = Speed(1e12, 1e11, ALL, processor=True)


def known(name: str) -> Model:
    found = facts.model(name)
    assert found is not None
    return found


LLAMA = known("Llama-3.1-8B")


def step(batch: float = 4, context: float = 500) -> Effort:
    return costs.step_effort(LLAMA, batch, context, layers=LLAMA.layers)


def prefill(tokens: float = 800) -> Effort:
    return costs.prefill_effort(LLAMA, costs.Tokens(1, tokens, tokens**2, 0), layers=LLAMA.layers)


def observed(effort: Effort, truth: Efficiency, noise: float = 0.0, at: Speed = GPU) -> Observation:
    there = Speed(at.flops, at.bandwidth, truth, at.processor)
    return Observation(effort, at, costs.seconds(effort, there) * math.exp(noise))


def one_by_one(belief: Estimate, seen: Sequence[Observation]) -> Estimate:
    for observation in seen:
        belief = calibrating.update(belief, observation)
    return belief


# By hand

TRAFFIC = Effort(((0.0, 1e12),), 0.0)
"""One second of the bandwidth of GPU, no arithmetic."""
HALF = estimate(Efficiency(0.5, 0.5, 1e-5), (0.3, 0.3, 0.3))
VARIANCE = 0.09 + calibrating.DRIFT**2


def test_an_update_is_that_of_a_kalman_filter() -> None:
    """Predicted 2 s, observed 2.1 s: the logarithm takes 0.09 / (0.09 + 0.01) of the surprise."""
    found = calibrating.update(HALF, Observation(TRAFFIC, GPU, 2.1))
    gain = VARIANCE / (VARIANCE + SPREAD**2)
    assert gain == pytest.approx(0.9, abs=1e-5)
    assert found.efficiency.memory == pytest.approx(0.5 / 1.05**gain)
    assert found.efficiency.memory == pytest.approx(0.4785, abs=1e-4)
    assert found.efficiency.compute == pytest.approx(0.5)
    assert found.covariance[2] == pytest.approx((1 - gain) * VARIANCE)
    assert found.samples == 1


def test_an_absurd_time_moves_an_estimate_two_deviations_at_most() -> None:
    found = calibrating.update(HALF, Observation(TRAFFIC, GPU, 2e9))
    most = GUARD * VARIANCE / math.sqrt(VARIANCE + SPREAD**2)
    assert math.log(0.5 / found.efficiency.memory) == pytest.approx(most)
    # And hardly narrows it: the surprise of 20.7 counts as one in 30 of the usual.
    assert found.covariance[2] > 0.96 * VARIANCE


def test_two_estimates_are_pooled_by_their_weights() -> None:
    """Variances 0.01 + 0.04 and 0.06 + 0.04: twice the weight for the first."""
    sure = estimate(Efficiency(0.4, 0.4, 1e-5), (0.1, 0.1, 0.1), 3)
    unsure = estimate(Efficiency(0.8, 0.8, 1e-5), (math.sqrt(0.06),) * 3, 4)
    found = calibrating.pooled([sure, unsure])
    assert found.efficiency.compute == pytest.approx(0.4 * 2 ** (1 / 3))
    assert found.covariance[0] == pytest.approx(0.1 / 3 + 0.04)
    assert found.samples == 7


def test_the_true_efficiency_is_found() -> None:
    truth = Efficiency(0.62, 0.81, 8e-5)
    random = np.random.default_rng(1)
    seen = [
        observed(effort, truth, float(random.normal(0, 0.02)))
        for effort in (
            *(step(batch, context) for batch in (1, 4, 16, 64) for context in (100, 2000)),
            *(prefill(tokens) for tokens in (10, 200, 900, 4000)),
        )
    ]
    found = calibrating.fit(seen, calibrating.default(processor=False))
    assert found.efficiency.compute == pytest.approx(truth.compute, rel=0.05)
    # One model alone can't tell e_m from c_0, both paid once a layer; together they are right.
    for effort in (step(2, 0), step(30, 1000), prefill(1), prefill(10_000)):
        unseen = observed(effort, truth)
        assert predicted(found, unseen) == pytest.approx(unseen.seconds, rel=0.03)


def test_models_of_unlike_size_tell_the_parts_apart() -> None:
    truth = Efficiency(0.62, 0.81, 8e-5)
    small = known("SmolLM2-135M")
    steps = [
        costs.step_effort(model, batch, 500, layers=30)
        for batch in (1, 9)
        for model in (LLAMA, small)
    ]
    seen = [observed(effort, truth) for effort in (*steps, prefill(3000))]
    found = calibrating.fit(seen, calibrating.default(processor=False)).efficiency
    assert found.compute == pytest.approx(truth.compute, rel=0.05)
    assert found.memory == pytest.approx(truth.memory, rel=0.05)
    assert found.layer == pytest.approx(truth.layer, rel=0.05)


def test_a_few_liars_do_not_change_what_the_rest_say() -> None:
    truth = Efficiency(0.6, 0.8, 5e-5)
    honest = [observed(step(batch), truth) for batch in range(1, 30)]
    lying = [observed(step(batch), truth, noise=3.0) for batch in (2, 9, 17)]
    prior = calibrating.default(processor=False)
    alone, beside = (calibrating.fit(seen, prior) for seen in (honest, [*honest, *lying]))
    for seen in honest:
        alike = [predicted(belief, seen) for belief in (alone, beside)]
        assert alike[0] == pytest.approx(alike[1], rel=0.1)


def predicted(belief: Estimate, seen: Observation) -> float:
    at = Speed(seen.at.flops, seen.at.bandwidth, belief.efficiency, seen.at.processor)
    return costs.seconds(seen.effort, at)


def test_without_observations_the_prior_stays() -> None:
    assert calibrating.fit([], HALF) is HALF


def test_an_estimate_follows_a_server_that_becomes_slower() -> None:
    before, after = Efficiency(0.6, 0.8, 1e-5), Efficiency(0.6, 0.5, 1e-5)
    belief = one_by_one(
        calibrating.default(processor=False), [observed(step(1), before) for _ in range(300)]
    )
    belief = one_by_one(belief, [observed(step(1), after) for _ in range(100)])
    seen = observed(step(1), after)
    assert predicted(belief, seen) == pytest.approx(seen.seconds, rel=0.1)


# What always holds

efforts = st.one_of(
    st.builds(step, st.floats(1, 200), st.floats(0, 8000)),
    st.builds(prefill, st.floats(1, 8000)),
)
speeds = st.sampled_from([GPU, PROCESSORS])
absurd = st.floats(1e-9, 1e9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(efforts, absurd), min_size=1, max_size=8), speeds, efforts)
def test_no_prediction_beats_the_ceiling_whatever_was_observed(
    given_: list[tuple[Effort, float]], at: Speed, asked: Effort
) -> None:
    seen = [Observation(effort, at, seconds) for effort, seconds in given_]
    prior = calibrating.default(processor=at.processor)
    for belief in (one_by_one(prior, seen), calibrating.fit(seen, prior)):
        seconds = predicted(belief, Observation(asked, at, 1.0))
        assert math.isfinite(seconds)
        assert seconds >= costs.bound(asked, at) * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(efforts, absurd), max_size=5), st.tuples(efforts, absurd), speeds)
def test_no_observation_moves_an_estimate_beyond_its_guard(
    before: list[tuple[Effort, float]], last: tuple[Effort, float], at: Speed
) -> None:
    prior = calibrating.default(processor=at.processor)
    belief = one_by_one(prior, [Observation(effort, at, seconds) for effort, seconds in before])
    after = calibrating.update(belief, Observation(last[0], at, last[1]))
    for index, place in enumerate((0, 2, 5)):
        most = GUARD * math.sqrt(belief.covariance[place] + calibrating.DRIFT**2)
        assert abs(after.logs[index] - belief.logs[index]) <= most * (1 + 1e-9)


likely = st.builds(Efficiency, st.floats(0.25, 0.95), st.floats(0.45, 0.95), st.floats(2e-6, 1e-4))
"""Within one and a half deviations of the prior."""
measured = st.lists(st.tuples(efforts, st.floats(-0.1, 0.1)), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(likely, measured, st.randoms(use_true_random=False))
def test_one_by_one_all_at_once_and_in_any_order_predict_alike(
    truth: Efficiency, given_: list[tuple[Effort, float]], random: object
) -> None:
    seen = [observed(effort, truth, noise) for effort, noise in given_]
    prior = calibrating.default(processor=False)
    shuffled = list(seen)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole, forth, back = (
        calibrating.fit(seen, prior),
        one_by_one(prior, seen),
        one_by_one(prior, shuffled),
    )
    for observation in seen:
        best = predicted(whole, observation)
        assert predicted(forth, observation) == pytest.approx(best, rel=0.35)
        assert predicted(back, observation) == pytest.approx(best, rel=0.35)
    at_once = calibrating.fit(shuffled, prior)
    assert at_once.logs == pytest.approx(whole.logs, abs=1e-3)


def test_one_by_one_is_as_good_as_all_at_once_but_for_rare_cases() -> None:
    random, prior, apart = np.random.default_rng(0), calibrating.default(processor=False), []
    for _ in range(100):
        drawn = random.uniform(np.log([0.25, 0.45, 2e-6]), np.log([0.95, 0.95, 1e-4]))
        truth = Efficiency(*np.exp(drawn).tolist())
        sizes = np.exp(random.uniform(0, [5.3, 9], (8, 2)))
        seen = [
            observed(effort, truth, float(random.uniform(-0.1, 0.1)))
            for batch, tokens in sizes[: random.integers(1, 8)]
            for effort in (step(batch, tokens), prefill(tokens))
        ]
        whole, forth = calibrating.fit(seen, prior), one_by_one(prior, seen)
        apart += [abs(math.log(predicted(forth, one) / predicted(whole, one))) for one in seen]
    assert np.quantile(apart, 0.5) < 0.01
    assert np.quantile(apart, 0.97) < 0.05
    assert max(apart) < 0.15


@settings(max_examples=40, deadline=None)
@given(likely, st.lists(st.tuples(efforts, st.floats(-0.4, 0.4)), min_size=1, max_size=10))
def test_a_fit_is_as_likely_as_the_best_a_library_finds(
    truth: Efficiency, given_: list[tuple[Effort, float]]
) -> None:
    seen = [observed(effort, truth, noise) for effort, noise in given_]
    prior = calibrating.default(processor=False)
    deviations = np.sqrt([prior.covariance[place] for place in (0, 2, 5)])

    def errors(logs: np.ndarray) -> np.ndarray:
        belief = Estimate(tuple(logs.tolist()), prior.covariance)
        far = [math.log(predicted(belief, one) / one.seconds) / SPREAD for one in seen]
        return np.array([*far, *((logs - prior.logs) / deviations)])

    def loss(logs: Sequence[float]) -> float:
        size = np.abs(errors(np.array(logs)))
        return float(np.where(size <= GUARD, size**2, GUARD * (2 * size - GUARD)).sum())

    low, high = np.log([1e-4, 1e-4, 1e-9]), np.log([1.0, 1.0, 60.0])
    best = least_squares(errors, prior.logs, bounds=(low, high), loss="huber", f_scale=GUARD)
    assert loss(calibrating.fit(seen, prior).logs) <= loss(best.x) * (1 + 1e-4) + 1e-6


# Between servers


def gpu(name: str, **more: object) -> Server:
    none = Device("none", CPU, 1, Bytes(0), 1.0, 1.0)
    device = Device("L4", "nvidia.com/gpu", 1, Bytes(24), 121e12, 300e9)
    return Server(name, {}, none, (device,), **more)  # type: ignore[arg-type]


SETTING = Setting("llama.gguf", "vllm", "L4")


def test_a_new_server_starts_from_its_kin_and_not_from_the_table() -> None:
    slow = Efficiency(0.2, 0.4, 2e-4)
    rich = [observed(effort, slow) for effort in (step(1), step(64), prefill(50), prefill(3000))]
    other = Setting("other.gguf", "vllm", "L4")
    learnt = calibrating.learn({("a", SETTING): rich, ("b", other): rich[:1], ("c", SETTING): []})
    assert set(learnt) == {("a", SETTING), ("b", other)}
    alone = calibrating.fit(rich[:1], calibrating.default(processor=False))
    unseen = observed(prefill(2000), slow)
    errors = [
        abs(math.log(predicted(belief, unseen) / unseen.seconds))
        for belief in (learnt["b", other], alone)
    ]
    assert errors[0] < errors[1] / 2


def test_alike_servers_share_what_they_learnt_and_keep_their_own() -> None:
    own = estimate(Efficiency(0.3, 0.6, 1e-5), (0.1, 0.1, 0.1), 5)
    others = estimate(Efficiency(0.5, 0.7, 1e-5), (0.1, 0.1, 0.1), 5)
    a, b, c = calibrating.shared(
        [gpu("a", calibration={SETTING: own}), gpu("b", calibration={SETTING: others}), gpu("c")]
    )
    assert a.calibrated(SETTING) is own
    lent = c.calibrated(SETTING)
    assert lent is not None
    assert lent.efficiency.compute == pytest.approx(math.sqrt(0.3 * 0.5))
    assert lent.uncertainty > own.uncertainty
    assert c.calibrated(Setting("unheard.gguf", "vllm", "L4")) is not None
    assert c.calibrated(Setting("unheard.gguf", "llamacpp", "L4")) is not None
    assert c.calibrated(Setting("llama.gguf", "vllm", "T4")) is None
    assert b.calibration[SETTING] is others


def test_servers_that_learnt_nothing_stay_as_they_are() -> None:
    servers = [gpu("a"), gpu("b")]
    assert all(
        one is other for one, other in zip(calibrating.shared(servers), servers, strict=True)
    )


# Wrong calls


@pytest.mark.parametrize("shares", [(0.0, 0.5, 0.0), (0.5, 1.01, 0.0), (0.5, 0.5, -1.0)])
def test_an_efficiency_above_one_is_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Efficiency(*shares)


def test_what_is_no_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="`covariance`"):
        Estimate((0.0, 0.0, -9.0), (0.1, 0.5, 0.1, 0.0, 0.0, 0.1))


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="`seconds`"):
        Observation(TRAFFIC, GPU, seconds)


def test_nothing_can_not_be_pooled() -> None:
    with pytest.raises(ValueError, match="`estimates`"):
        calibrating.pooled([])
