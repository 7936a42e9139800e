"""What the operator tells Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

PASSES = Counter("evenkeel_operator_passes_total", "Passes over all jobs.", ["result"])
PASS_SECONDS = Histogram(
    "evenkeel_operator_pass_duration_seconds",
    "Duration of a pass.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PLAN_SECONDS = Histogram(
    "evenkeel_operator_plan_duration_seconds",
    "Duration of planning a job or a part of it.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
LAST_PASS = Gauge(
    "evenkeel_operator_last_pass_timestamp_seconds", "When the last pass over all jobs ended well."
)
DEFECTS = Counter(
    "evenkeel_operator_defects_total", "Jobs left alone for a pass because handling them failed."
)
JOBS = Gauge("evenkeel_operator_jobs", "InferenceJobs there are.")
LEADER = Gauge("evenkeel_operator_leader", "1 while this process leads.")
EVENTS = Counter("evenkeel_operator_events_total", "Events posted.", ["reason"])
WRITE_ERRORS = Counter("evenkeel_operator_write_errors_total", "Writes that failed.")
