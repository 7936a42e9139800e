"""Why a subtask can not run on a server, or a job not go on: one vocabulary for everything.

The member's value appears unchanged in conditions, events, the extender's ``FailedNodes``,
metrics and ``evenkeel explain``. The second element is the sentence that ``explain`` prints.
"""

from enum import StrEnum


class Reason(StrEnum):
    """A reason constant with the sentence that explains it."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> "Reason":
        """Make a member that is its constant and knows its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    # Hard checks of a subtask on a server, in the order in which they are asked.
    SERVER_NOT_READY = "ServerNotReady", "the server does not report Ready"
    SERVER_CORDONED = "ServerCordoned", "the server is marked unschedulable"
    TAINT_NOT_TOLERATED = "TaintNotTolerated", "the server has a taint the job does not tolerate"
    SELECTOR_MISMATCH = "SelectorMismatch", "the job's nodeSelector or affinity excludes the server"
    NOT_THE_NAMED_SERVER = "NotTheNamedServer", "the job names another server for this subtask"
    ENGINE_VARIANT_MISSING = (
        "EngineVariantMissing",
        "no variant of the engine runs on the server's hardware",
    )
    INSUFFICIENT_RESOURCE = (
        "InsufficientResource",
        "the server has less of a resource than the subtask needs, even when it is empty",
    )
    PINNED_ELSEWHERE = "PinnedElsewhere", "the subtask was sized for another server"
    # Only the extender and the release of gates ask these: they pass with time.
    BUSY = "Busy", "the server's free capacity is taken or reserved at the moment"

    # Planning.
    PLANNED = "Planned", "every subtask has a server"
    INSPECTING = "Inspecting", "the model's file or the input is still being read"
    QUEUED = "Queued", "earlier jobs go first"
    NO_SERVERS = "NoServers", "the cluster has no server that may be planned"
    NO_FEASIBLE_SERVER = "NoFeasibleServer", "a subtask fits no server"
    MODEL_DOES_NOT_FIT = (
        "ModelDoesNotFit",
        "the model fits no server and no pipeline of the servers that may be used",
    )
    TOO_MANY_SUBTASKS = "TooManySubtasks", "the job has more subtasks than one job may have"
    MODEL_UNKNOWN = "ModelUnknown", "nothing is known of the model's shape"
    ENGINE_UNAVAILABLE = "EngineUnavailable", "this release does not run the engine the job names"
    BAND_NOT_REACHABLE = (
        "BandNotReachable",
        "no assignment of whole subtasks brings the loads into the wanted band",
    )

    PLAN_NOT_WRITTEN = "PlanNotWritten", "the plan could not be put on record"
    PLAN_NOT_READABLE = "PlanNotReadable", "the plan on record can not be read by this release"
    POD_NOT_CREATED = "PodNotCreated", "the API server refuses a pod of the job"
    DEFECT = (
        "Defect",
        "the operator failed on this job, and only on this one: its log has the traceback",
    )

    # Life of a job.
    ACCEPTED = "Accepted", "the job can be worked on"
    NOT_ACCEPTED = "NotAccepted", "the job breaks a rule that the API server can not check"
    SUSPENDED = "Suspended", "spec.suspend is true"
    WAITING = "Waiting", "subtasks wait for their dependencies or for room"
    ALL_BOUND = "AllBound", "every subtask has been given to its server"
    RUNNING = "Running", "subtasks are running"
    SUCCEEDED = "AllSubtasksSucceeded", "every subtask succeeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded", "a subtask failed more often than allowed"
    DEADLINE_EXCEEDED = "DeadlineExceeded", "the job was active longer than allowed"
    BALANCED = "Balanced", "the relative loads are within the band"

    # What became of an attempt.
    ATTEMPT_FAILED = "AttemptFailed", "the container failed; counts against backoffLimit"
    DISRUPTED = "Disrupted", "the pod was evicted, preempted or its node went away; a free retry"
    REJECTED_BY_NODE = "RejectedByNode", "the kubelet refused the pod (OutOf…); a free retry"
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "the container was OOMKilled; an engine gets a higher memory estimate",
    )
    NOT_STARTED = (
        "NotStarted",
        "the container did not start there (its image or a volume); a free retry elsewhere",
    )
    GANG_TIMEOUT = "GangTimeout", "not every member was bound in time; the set starts anew"
    REPLANNED = "Replanned", "no server of the shortlist is possible any more"
