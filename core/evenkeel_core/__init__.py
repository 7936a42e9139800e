"""The mathematics of Evenkeel: pure and deterministic, from a snapshot to a plan."""
