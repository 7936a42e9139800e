"""Coupled sets on a crowded rack: never a deadlock, never half bound for long.

A hundred trials at once, each on three nodes of its own with two sets that need two nodes each:
room for one and a half. While no scheduler runs, the gates fall; then strangers take some of the
planned nodes; then the scheduler starts.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from evenkeel_kube import names
from evenkeel_sandbox.simulated import SimulatedNode

if TYPE_CHECKING:
    from conftest import Rack

pytestmark = pytest.mark.sandbox
Object = dict[str, Any]

TRIALS = 100
GANG_TIMEOUT = 5
PATIENCE = 30.0
"""Seconds a set may be seen half bound: its time-out and a pass under load."""


def sets(rack: "Rack") -> dict[tuple[str, str], list[Object]]:
    """Return the live pods of each attempt of each set of the trials."""
    found: dict[tuple[str, str], list[Object]] = defaultdict(list)
    for pod in rack.get(f"/api/v1/namespaces/default/pods?labelSelector={names.LABEL_JOB}")[
        "items"
    ]:
        job = pod["metadata"]["labels"][names.LABEL_JOB]
        if job.startswith("set-") and not pod["metadata"].get("deletionTimestamp"):
            found[job, pod["metadata"]["annotations"][names.ANNOTATION_ATTEMPT]].append(pod)
    return found


def succeeded(rack: "Rack") -> int:
    jobs = rack.get(f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs")["items"]
    return sum(
        any(c["type"] == "Succeeded" and c["status"] == "True" for c in job["status"]["conditions"])
        for job in jobs
        if job["metadata"]["name"].startswith("set-") and job.get("status", {}).get("conditions")
    )


def half_bound(pods: list[Object]) -> bool:
    bound = [bool(pod["spec"].get("nodeName")) for pod in pods]
    return any(bound) and not all(bound)


@dataclass(slots=True)
class Halves:
    """Since when which attempts of which sets are seen half bound."""

    rack: "Rack"
    since: dict[tuple[str, str], float] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def look(self) -> None:
        """Fail where a set is half bound for too long."""
        now = time.monotonic()
        live = {key for key, pods in sets(self.rack).items() if half_bound(pods)}
        self.seen |= live
        self.since = {key: self.since.get(key, now) for key in live}
        late = {key: now - began for key, began in self.since.items() if now - began >= PATIENCE}
        assert not late, f"half bound for too long: {late}"


def test_sets_never_deadlock_nor_stay_half_bound(
    rack: "Rack", simulated: Callable[..., Object], on: Callable[[str], Object]
) -> None:
    draw = random.Random(7)  # noqa: S311 - the same strangers every time
    nodes = [
        SimulatedNode(
            f"trial-{trial}-{number}",
            {"cpu": "8", "memory": "8Gi"},
            {"test": f"trial-{trial}"},
            [{"key": "test", "value": "trial", "effect": "NoSchedule"}],
        )
        for trial in range(TRIALS)
        for number in range(3)
    ]
    rack.cluster.add_simulated(nodes)
    rack.wait("the nodes are ready", lambda: not rack.cluster.unready(), 120)
    with rack.paused("evenkeel-scheduler"):
        for trial in range(TRIALS):
            for side in "ab":
                spec = simulated(
                    2,
                    scale=100,
                    parallelism={"pipeline": 2, "data": 1},
                    gangTimeoutSeconds=GANG_TIMEOUT,
                    **on(f"trial-{trial}"),
                )
                rack.create(f"set-{trial}-{side}", spec)
        rack.wait("a set of each trial is released", lambda: released(rack) >= TRIALS, 180)
        struck = strike(rack, draw)
    assert len(struck) > TRIALS // 4
    halves = Halves(rack)
    # The strangers stay for longer than a set may be seen half bound: those they keep from being
    # whole must let go, and not only once the strangers have gone.
    crowded = time.monotonic() + PATIENCE + GANG_TIMEOUT
    while time.monotonic() < crowded:
        halves.look()
        time.sleep(0.5)
    assert halves.seen, "no set was ever half bound: the strangers were in nobody's way"
    for name in struck:
        rack.cluster.api.call("DELETE", f"/api/v1/namespaces/default/pods/{name}")
    deadline = time.monotonic() + 300
    while succeeded(rack) < 2 * TRIALS:
        assert time.monotonic() < deadline, f"{succeeded(rack)} of {2 * TRIALS} sets succeeded"
        halves.look()
        time.sleep(0.5)
    rack.cluster.kubectl("delete", "ijob", "-l", "test=sets", "--wait=false")
    for node in nodes:
        rack.cluster.remove_node(node.name)


def released(rack: "Rack") -> int:
    return sum(
        all(not pod["spec"].get("schedulingGates") for pod in pods) for pods in sets(rack).values()
    )


def strike(rack: "Rack", draw: random.Random) -> list[str]:
    """Put a stranger onto the planned node of one member of about half of the sets."""
    struck = []
    for (job, _), pods in sorted(sets(rack).items()):
        if any(pod["spec"].get("schedulingGates") for pod in pods) or draw.random() < 0.5:
            continue
        victim = draw.choice(sorted(pods, key=lambda pod: str(pod["metadata"]["name"])))
        name = f"stranger-{job}"
        node = victim["metadata"]["annotations"][names.ANNOTATION_SERVER]
        rack.stranger(name, node, "7500m")
        struck.append(name)
    return struck
