"""Names that Evenkeel writes into the API server: one place, so that nobody spells them twice."""

GROUP = "evenkeel.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

SCHEDULER = "evenkeel"
"""``schedulerName`` of every pod of a job, and the profile that the extender serves."""
GATE = f"{GROUP}/planned"
"""Scheduling gate: falls when the dependencies are done and there is room."""
FINALIZER = f"{GROUP}/tracking"
"""On every pod of a job, until its outcome stands in the job's status."""
FIELD_MANAGER = "evenkeel-operator"

LABEL_JOB = f"{GROUP}/job"
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_SUBTASK = f"{GROUP}/subtask"
LABEL_GROUP = f"{GROUP}/group"
"""Coupled set; equals the subtask's name where it stands alone."""
LABEL_PLAN = f"{GROUP}/plan"
"""``true`` on the ConfigMaps that hold plans."""
LABEL_ENGINE = f"{GROUP}/engine"

ANNOTATION_SERVER = f"{GROUP}/planned-server"
"""Where the plan wants the pod; on an unbound pod without the gate this is a reservation."""
ANNOTATION_REVISION = f"{GROUP}/plan-revision"
ANNOTATION_ATTEMPT = f"{GROUP}/attempt"
"""Fencing number: an outcome counts only when it equals the one on record."""
ANNOTATION_SECONDS = f"{GROUP}/predicted-seconds"
ANNOTATION_WORK = f"{GROUP}/work"
"""Reference seconds of the subtask, for the loads of the game."""
ANNOTATION_RUN_SECONDS = f"{GROUP}/run-seconds"
"""Simulator only: how long the pod really runs, in real seconds."""

ANNOTATION_TIME_SCALE = f"{GROUP}/time-scale"
"""Simulator only: simulated seconds that pass in one real second; absent is 1."""

ANNOTATION_NOT_BEFORE = f"{GROUP}/not-before"
"""Seconds since the epoch by the operator's clock: the gate stays until then (back-off)."""
ANNOTATION_RELEASED = f"{GROUP}/released"
"""Seconds since the epoch by the operator's clock at which the gate fell."""

TAINT_SIMULATED = "kwok.x-k8s.io/node"
"""Taint (value ``fake``, NoSchedule) of simulated nodes; only simulator pods tolerate it."""


def label(name: str) -> str:
    """Return a name as the value of a label: 63 characters at most, a letter or digit last."""
    return name[:63].rstrip("-.")
