"""What the extender tells Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

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
AGE = Gauge("evenkeel_extender_snapshot_age_seconds", "Age of the snapshot.")
ASSUMED = Gauge("evenkeel_extender_assumed_pods", "Pods advised and not seen bound yet.")
