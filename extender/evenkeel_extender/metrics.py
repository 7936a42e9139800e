"""What the extender tells Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from evenkeel_extender.state import State

SECONDS = Histogram(
    "evenkeel_extender_request_duration_seconds",
    "Duration of a verb.",
    ["verb", "result"],
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
NODES = Histogram(
    "evenkeel_extender_nodes",
    "Nodes a verb was asked about.",
    ["verb"],
    buckets=(1, 2, 4, 8, 16, 64, 256, 1024, 4096),
)
UNKNOWN = Counter("evenkeel_extender_unplanned_pods_total", "Pods asked about without a plan.")
REFUSED = Counter("evenkeel_extender_refusals_total", "Nodes refused.", ["reason"])
ADVISED = Counter(
    "evenkeel_extender_advised_pods_total",
    "Pods whose best node was named, by whether it is the planned one.",
    ["where"],
)
AGE = Gauge("evenkeel_extender_snapshot_age_seconds", "Seconds since the snapshot was built.")
ASSUMED = Gauge("evenkeel_extender_assumed_pods", "Pods advised and not seen bound yet.")
WATCH_AGE = Gauge(
    "evenkeel_extender_watch_age_seconds", "Seconds since a watch was heard.", ["resource"]
)
WATCHED = Gauge("evenkeel_extender_watched_objects", "Objects in a watch's cache.", ["resource"])
RELISTS = Gauge(
    "evenkeel_extender_watch_relists", "Lists since the start, by why.", ["resource", "reason"]
)


def collect(state: State) -> None:
    """Set the gauges to what they are now."""
    AGE.set(state.age())
    ASSUMED.set(len(state.assumptions))
    for resource, reflector in state.watched.items():
        WATCH_AGE.labels(resource).set(reflector.age())
        WATCHED.labels(resource).set(len(reflector.items))
        for reason, count in reflector.statistics.relists.items():
            RELISTS.labels(resource, reason).set(count)
