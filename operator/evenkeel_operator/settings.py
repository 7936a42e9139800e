"""What the operator can be told; read once, in the entry point."""

from dataclasses import dataclass
from typing import Literal

from evenkeel_kube import names, pods


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the operator; each with its reason."""

    mode: Literal["shortlist", "open", "pin"] = "shortlist"
    """How gates open: onto the k best servers, onto all, or onto the planned one alone."""
    shortlist: int = 8
    """k: so many nodes kube-scheduler looks at for a pod, whatever the cluster's size."""
    scheduler: str = names.SCHEDULER
    """Profile that schedules the pods."""
    simulator_image: str = pods.SIMULATOR_IMAGE
    namespace: str = "evenkeel-system"
    """Where the leader's Lease is."""
    lease: str = "evenkeel-operator"
    identity: str = "operator"
    create_batch: int = 200
    """Pods created in one pass: a job of 2,000 must not keep the others waiting for a minute."""
    concurrency: int = 32
    """Writes under way at the same time."""
    resync: float = 2.0
    """Seconds between passes when nothing happens: time-outs and deadlines are seen then."""
    settle: float = 0.05
    """Seconds events are gathered before a pass: a burst of pod events is one pass."""
    free_retries: int = 100
    """Attempts a group may lose to disruptions before it counts as failed."""
    backoff_most: float = 30.0
    """Longest pause before an attempt in seconds."""
    kill_after: float = 10.0
    """Seconds after its deletion was due that a pod on a ready node is taken for gone."""
    start_after: float = 60.0
    """Seconds a bound pod may wait for its image or a volume before it is tried elsewhere."""
    stuck_after: float = 60.0
    """Seconds after which a released single pod that is not bound is planned anew."""
