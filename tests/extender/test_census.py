"""What pods strand for those that usually come, from what the watches hold."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenkeel_core import fitting
from evenkeel_core.fitting import WHOLE, Fitting, Room, Shape
from evenkeel_extender import scoring
from evenkeel_extender.assuming import Assumption

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
Object = dict[str, Any]


def node(make: Any, name: str, gpus: int = 0, cpu: str = "10", **labels: str) -> Object:
    made: Object = make.node(name, cpu=cpu, labels={PRODUCT: labels["product"]} if labels else {})
    if gpus:
        amounts = made["status"]["allocatable"] | {GPU: str(gpus)}
        made["status"] |= {"allocatable": amounts, "capacity": amounts}
    return made


def stranger(make: Any, name: str, gpus: int = 0, cpu: str = "1", **spec: Any) -> Object:
    made: Object = make.pod(uid=f"uid-{name}", cpu=cpu)
    made["spec"] |= spec
    if gpus:
        made["spec"]["containers"][0]["resources"]["requests"][GPU] = str(gpus)
    return made


def top(world: Any, pod: Any, *candidates: str, assumed: Any = ()) -> str | None:
    return scoring.best(scoring.prioritized(world.snapshot(), pod, candidates, assumed))


def test_a_pod_without_a_device_leaves_the_devices_alone(make: Any) -> None:
    waiting = [stranger(make, "w", gpus=1, cpu="5"), stranger(make, "x", cpu="5")]
    world = make.world([node(make, "a", 1), node(make, "b")], waiting)
    assert top(world, make.read(waiting[1]), "a", "b") == "b"
    assert top(world, make.read(waiting[0]), "a", "b") == "a"
    row = scoring.explained(world.snapshot(), make.read(waiting[1]), ())[0]
    # Nine of ten processors may be used: with five taken no pod that wants five starts.
    assert (row["server"], row["stranded"], row["score"]) == ("b", 0.0, 10)


def test_a_gap_is_filled_before_what_others_need_whole(make: Any) -> None:
    waiting = [stranger(make, "w", gpus=2), stranger(make, "x", gpus=1)]
    world = make.world([node(make, "a", 2), node(make, "b", 1)], waiting)
    pod = make.read(waiting[1])
    assert top(world, pod, "a", "b") == "b"
    # A second one before the first is bound finds the gap taken.
    first = Assumption(make.read(stranger(make, "y", gpus=1)), "b", 999.0)
    assert top(world, pod, "a", "b", assumed=[first]) == "a"


def test_who_may_run_anywhere_leaves_the_kind_that_others_name(make: Any) -> None:
    selector = {PRODUCT: "Tesla-T4", "kubernetes.io/hostname": "a"}
    waiting = [stranger(make, "w", gpus=1, nodeSelector=selector), stranger(make, "x", gpus=1)]
    rack = [node(make, "a", 2, product="Tesla-T4"), node(make, "b", 2, product="NVIDIA-L4")]
    anyone = make.read(waiting[1])
    assert top(make.world(rack, waiting), anyone, "a", "b") == "b"
    assert top(make.world(rack, waiting[1:]), anyone, "a", "b") == "a"  # alike: by name


def test_on_a_rack_without_devices_processors_are_what_is_stranded(make: Any) -> None:
    waiting = [stranger(make, "w", cpu="4"), stranger(make, "x", cpu="1")]
    world = make.world([node(make, "a", cpu="5"), node(make, "b", cpu="2")], waiting)
    assert top(world, make.read(waiting[1]), "a", "b") == "b"


def test_there_is_no_opinion_on_who_asks_for_nothing_or_fits_nowhere(make: Any) -> None:
    waiting = [stranger(make, "w", cpu="0"), stranger(make, "x", gpus=3)]
    world = make.world([node(make, "a", 1), node(make, "b")], waiting)
    for pod in map(make.read, waiting):
        assert top(world, pod, "a", "b", "unheard-of") is None
    assert top(world, make.read(stranger(make, "y")), "unheard-of") is None


def test_a_pod_whose_plan_is_not_seen_yet_goes_where_its_room_is_reserved(make: Any) -> None:
    world = make.world([node(make, "a"), node(make, "b")], [make.pod("t", server="b")])
    pod = make.read(world.pods[0])
    assert top(world, pod, "a", "b") == "b"
    assert top(world, pod, "a") == "a"


@pytest.mark.parametrize(("cost", "wanted"), [(12.0, "b"), (12.6, "a")])
def test_of_servers_about_as_good_the_least_stranded_is_named(
    make: Any, cost: float, wanted: str
) -> None:
    """ĉ is 10: a cost of 12.5 is as much more than 10 as the inertia."""
    record = make.record({"t": {"a": 10.0, "b": cost, "gone": 5.0}}, {"t": "gone"})
    waiting = [make.pod("t", server="gone", cpu="5"), stranger(make, "w", gpus=1, cpu="5")]
    world = make.world([node(make, "a", 1), node(make, "b")], waiting, [record])
    pod = make.read(waiting[0])
    assert top(world, pod, "a", "b") == wanted
    # Where its plan can be kept, it is kept.
    world.nodes.append(node(make, "gone", 1))
    assert top(world, pod, "a", "b", "gone") == "gone"


amounts = st.tuples(st.integers(1, 6), st.integers(0, 3))


@given(
    rack=st.lists(st.tuples(st.integers(1, 16), st.integers(0, 4)), min_size=1, max_size=5),
    asked=st.lists(amounts, min_size=1, max_size=8),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_extender_places_pod_after_pod_as_the_core_does(
    make: Any, rack: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    names = [f"n{index}" for index in range(len(rack))]
    nodes = [
        node(make, name, gpus, str(cpu)) for name, (cpu, gpus) in zip(names, rack, strict=True)
    ]
    pods = [stranger(make, f"p{n}", gpus, str(cpu)) for n, (cpu, gpus) in enumerate(asked)]
    world = make.world(nodes, pods)
    core = fitted(world.snapshot().free, names, asked)
    for pod, (cpu, gpus) in zip(pods, asked, strict=True):
        snapshot, read = world.snapshot(), make.read(pod)
        refused = scoring.refusals(snapshot, read, names, ())
        left = [name for name in names if name not in refused]
        found = scoring.best(scoring.prioritized(snapshot, read, left, ()))
        shape = Shape((1000 * cpu, 1), gpus)
        server = core.choose(shape)
        assert found == (names[server] if server is not None else None)
        if server is not None:
            core.take(server, shape)
            pod["spec"]["nodeName"] = found


def fitted(free: Any, names: list[str], asked: list[tuple[int, int]]) -> Fitting:
    """Return the core's own scores of a rack of one kind, its pods known."""
    count = [free[name].get(GPU, 0) for name in names]
    room = Room(
        np.array([[free[name]["cpu"], free[name]["pods"]] for name in names], dtype=float),
        np.where(np.arange(max(count)) < np.array(count)[:, None], float(WHOLE), 0.0),
        np.zeros(len(names), dtype=np.int64),
    )
    counted = Counter(Shape((1000 * cpu, 1), gpus) for cpu, gpus in asked)
    return Fitting(room, fitting.typical(counted, 1), np.zeros(1))
