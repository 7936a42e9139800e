"""What one job needs now: pure, from its object, its plan on record and its pods.

Two writes come before what depends on them: an attempt is recorded before its pods are created,
an outcome before its pod is let go. So a pass that finds something new to record asks for that
alone; the next pass, which sees it recorded, does the rest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from evenkeel_core import checks
from evenkeel_core.jobs import Engine, Inference, Job, Task, Template
from evenkeel_core.plans import Assignment, Refusal
from evenkeel_core.quantities import PODS, Vector
from evenkeel_core.reasons import Reason
from evenkeel_core.releasing import Waiting
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Subtask, raised
from evenkeel_kube import names, plans, pods, statuses
from evenkeel_kube.nodes import pod_demand
from evenkeel_operator import following, reporting
from evenkeel_operator.following import Look, Patience, Phase
from evenkeel_operator.settings import Settings

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """One job as a pass sees it."""

    manifest: Object
    job: Job | None
    """None where the manifest can't be read or inspection goes on."""
    problem: tuple[Reason, str] | None
    """Why there is no `job`."""
    record: plans.Record | None
    pods: tuple[Object, ...]
    refusals: tuple[Refusal, ...] = ()
    """Of the last attempt to plan it, while the servers are as they were then."""
    admitted: bool = True
    position: int = 0
    obstacle: str = ""
    """Why the API server refused the last pod."""
    steady: Mapping[str, float] = field(default_factory=dict)
    """Seconds for which each server has been seen Ready without a break."""


@dataclass(slots=True)
class Decision:
    """What is to be done for one job."""

    status: Object = field(default_factory=dict)
    record: plans.Record | None = None
    """To be written before anything else."""
    plan: bool = False
    replan: dict[str, set[str]] = field(default_factory=dict)
    """Groups to decide anew, each with the servers to avoid; written with `record`."""
    moving: set[str] = field(default_factory=set)
    """Those of them that never started: if no server is found they have lost nothing."""
    create: list[Object] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)
    strip: list[Object] = field(default_factory=list)
    waiting: list[tuple[float, Waiting]] = field(default_factory=list)
    """Groups that may be released, with the planned start that orders them."""
    events: list[tuple[str, str, str]] = field(default_factory=list)
    """Type, reason and message."""
    remove: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group of a plan, with all that concerns it."""

    name: str
    index: int
    task: Task
    members: tuple[Subtask, ...]
    assignments: tuple[Assignment, ...]


def decide(view: View, servers: Mapping[str, Server], now: float, settings: Settings) -> Decision:
    """Return what a job needs now."""
    decision = Decision()
    if reporting.finished(view.manifest):
        _clean_up(view, now, decision)
    elif view.job is None:
        _not_accepted(view, now, decision)
    elif view.record is None:
        _unplanned(view, now, decision)
    else:
        _Run(view, view.job, view.record, servers, now, settings, decision).decide()
    return decision


def groups(job: Job, record: plans.Record) -> list[Group]:
    """Return the groups of a plan in the order of their numbers."""
    tasks = {task.name: task for task in job.tasks}
    places = {assignment.subtask: assignment for assignment in record.plan.assignments}
    members: dict[str, list[Subtask]] = {}
    for subtask in record.plan.graph.subtasks:
        members.setdefault(subtask.group, []).append(subtask)
    found = [
        Group(
            name,
            own[0].index,
            tasks[own[0].task],
            tuple(own),
            tuple(places[subtask.name] for subtask in own),
        )
        for name, own in members.items()
    ]
    return sorted(found, key=lambda group: group.index)


def status(manifest: Object, wanted: reporting.Conditions, now: float, **more: Any) -> Object:
    """Return the status of a job with these conditions; others stay as they were."""
    before = manifest.get("status") or {}
    generation = int(manifest["metadata"].get("generation", 1))
    return {
        "observedGeneration": generation,
        "conditions": reporting.conditions(before.get("conditions") or (), wanted, generation, now),
        "state": reporting.word(manifest, wanted),
        **more,
    }


def _clean_up(view: View, now: float, decision: Decision) -> None:
    """Let the pods of a job that has ended go, and the job itself when its time has come."""
    for pod in view.pods:
        if not following.terminal(pod) and not pod["metadata"].get("deletionTimestamp"):
            decision.delete.append(pod)
        if names.FINALIZER in pod["metadata"].get("finalizers", ()):
            decision.strip.append(pod)
    ttl = view.manifest["spec"].get("ttlSecondsAfterFinished")
    ended = (view.manifest.get("status") or {}).get("completionTime")
    if ttl is not None and ended and following.seconds_since(ended, now) >= ttl:
        decision.remove = True


def _not_accepted(view: View, now: float, decision: Decision) -> None:
    reason, message = view.problem or (Reason.INSPECTING, "")
    if reason is Reason.INSPECTING:
        wanted: reporting.Conditions = {
            "Accepted": ("True", str(Reason.ACCEPTED), ""),
            "Planned": ("Unknown", str(reason), message),
        }
    else:
        wanted = {"Accepted": ("False", str(reason), message)}
    decision.status = status(view.manifest, wanted, now)


def unavailable(job: Job) -> str | None:
    """Return why this release can't run a job, None if it can."""
    for task in job.tasks:
        work = task.work
        if isinstance(work, Inference) and work.engine is not Engine.SIMULATOR:
            return (
                f"{task.name}: this release does not run engine {work.engine.value}; use "
                "runtime.engine simulator, or template tasks"
            )
    return None


def _unplanned(view: View, now: float, decision: Decision) -> None:
    accepted = ("True", str(Reason.ACCEPTED), "")
    if view.manifest["spec"].get("suspend"):
        planned = ("Unknown", str(Reason.SUSPENDED), Reason.SUSPENDED.sentence)
    elif view.refusals:
        reason, message = reporting.refused(view.refusals)
        planned = ("False", reason, message)
    elif not view.admitted:
        planned = ("Unknown", str(Reason.QUEUED), f"{view.position} jobs go first")
    else:
        planned = ("Unknown", "Planning", "the plan is being made")
        decision.plan = True
    wanted = {"Accepted": accepted, "Planned": planned}
    decision.status = status(view.manifest, wanted, now, queuePosition=view.position)


class _Run:
    """One pass over a job that has a plan."""

    def __init__(
        self,
        view: View,
        job: Job,
        record: plans.Record,
        servers: Mapping[str, Server],
        now: float,
        settings: Settings,
        decision: Decision,
    ) -> None:
        self.view, self.job, self.record = view, job, record
        self.servers, self.now, self.settings = servers, now, settings
        self.decision = decision
        self.spec = view.manifest["spec"]
        self.status = view.manifest.get("status") or {}
        self.groups = groups(job, record)
        self.recorded = statuses.indexes(self.status.get("completed"))
        self.completed = set(self.recorded)
        self.failed: dict[int, str] = {}
        self.looks: dict[str, Look] = {}
        self.changed = msgspec.structs.replace(
            record,
            attempts=dict(record.attempts),
            failures=dict(record.failures),
            retries=dict(record.retries),
            avoid={key: list(value) for key, value in record.avoid.items()},
            memory=dict(record.memory),
        )
        self.by_attempt: dict[str, dict[int, dict[str, Object]]] = {}
        for pod in view.pods:
            labels = pod["metadata"]["labels"]
            number = following.attempt(pod)
            of_group = self.by_attempt.setdefault(labels[names.LABEL_GROUP], {})
            of_group.setdefault(number, {})[labels[names.LABEL_SUBTASK]] = pod

    def decide(self) -> None:
        suspended = bool(self.spec.get("suspend"))
        for group in self.groups:
            self._follow(group, suspended=suspended)
        if self.changed != self.record:
            self.decision.record = self.changed
        elif not suspended and not self.failed:
            self._start()
        self._report(suspended=suspended)

    # Following

    def _follow(self, group: Group, *, suspended: bool) -> None:
        current = self.record.attempts.get(group.name, 1)
        attempts = self.by_attempt.get(names.label(group.name), {})
        for number, stale in attempts.items():
            if number != current:
                self._discard(stale.values())
        found = attempts.get(current, {})
        if group.index in self.recorded:
            self.looks[group.name] = Look(Phase.SUCCEEDED)
            self._let_go(found.values())
            return
        look = self._look(group, found)
        self.looks[group.name] = look
        if look.phase is Phase.SUCCEEDED:
            self.completed.add(group.index)
        elif look.phase is Phase.LOST:
            self._lost(group, current, look)
        elif suspended and found:
            self.changed.attempts[group.name] = current + 1

    def _look(self, group: Group, found: Mapping[str, Object]) -> Look:
        work = group.task.work
        anew = not isinstance(work, Template) or work.retry_on_node_loss
        patience = Patience(
            float(self.spec.get("gangTimeoutSeconds", 60)),
            self.settings.kill_after,
            self.settings.stuck_after,
            self.settings.start_after,
        )
        members = [names.label(subtask.name) for subtask in group.members]
        look = following.look(
            members,
            found,
            self.servers,
            self.now,
            patience,
            retry_on_node_loss=anew,
            steady=self.view.steady,
        )
        if look.phase in (Phase.GATED, Phase.ABSENT) and (gone := self._impossible(group)):
            if self.view.refusals:
                return Look(Phase.BLOCKED)
            message = f"{', '.join(gone)} can not take it any more"
            return Look(Phase.LOST, Reason.REPLANNED, message, gone)
        return look

    def _impossible(self, group: Group) -> tuple[str, ...]:
        """Return the planned servers of a group that can't take their members any more."""
        gone = set()
        for subtask, place in zip(group.members, group.assignments, strict=True):
            server = self.servers.get(place.server)
            # As the task may run now: a claim may have been bound since the plan was made.
            subtask = replace(self._asking(subtask), constraints=group.task.constraints)
            if server is None or checks.reason(subtask, server) is not None:
                gone.add(place.server)
        return tuple(sorted(gone))

    def _discard(self, stale: Any) -> None:
        """Delete and let go of pods of an older attempt: their outcome does not count."""
        for pod in stale:
            if not pod["metadata"].get("deletionTimestamp") and not following.terminal(pod):
                self.decision.delete.append(pod)
            self._let_go((pod,))

    def _let_go(self, found: Any) -> None:
        for pod in found:
            if names.FINALIZER in pod["metadata"].get("finalizers", ()):
                self.decision.strip.append(pod)

    def _lost(self, group: Group, current: int, look: Look) -> None:
        """Record a lost attempt and what its class asks for; the next pass starts the next."""
        changed, name = self.changed, group.name
        reason = look.reason or Reason.ATTEMPT_FAILED
        if reason in following.FREE:
            changed.retries[name] = changed.retries.get(name, 0) + 1
            exceeded = changed.retries[name] > self.settings.free_retries
        else:
            changed.failures[name] = changed.failures.get(name, 0) + 1
            exceeded = changed.failures[name] > self._limit(group)
        if reason is Reason.OUT_OF_MEMORY and isinstance(group.task.work, Inference):
            factor = changed.memory.get(group.task.name, 1.0)
            changed.memory[group.task.name] = min(4.0, factor * MEMORY_RAISED)
        if exceeded:
            self.failed[group.index] = f"{name}: {look.message}"
            return
        changed.attempts[name] = current + 1
        avoid = sorted({*changed.avoid.get(name, ()), *look.servers})[-AVOIDED:]
        changed.avoid[name] = avoid
        if reason in following.FREE or len(group.members) > 1:
            self.decision.replan[name] = set(avoid)
        if reason is Reason.REPLANNED:
            self.decision.moving.add(name)
        self.decision.events.append(("Warning", str(reason), f"{name}: {look.message}"))

    def _limit(self, group: Group) -> int:
        written: Object = next(
            (item for item in self.spec.get("tasks") or () if item["name"] == group.task.name), {}
        )
        limit = written.get("backoffLimit")
        return int(self.spec.get("backoffLimit", 3) if limit is None else limit)

    # Starting

    def _start(self) -> None:
        done = self._done_tasks()
        absent = []
        for group in self.groups:
            phase = self.looks[group.name].phase
            if phase is Phase.ABSENT and self.view.admitted:
                absent.append(group)
            elif phase is Phase.GATED and set(group.task.depends_on) <= done:
                self._may_start(group)
        absent.sort(key=lambda group: (group.assignments[0].start, group.index))
        for group in absent:
            if len(self.decision.create) >= self.settings.create_batch:
                break
            self.decision.create += self._render(group)

    def _done_tasks(self) -> set[str]:
        open_tasks = {group.task.name for group in self.groups if group.index not in self.recorded}
        return {task.name for task in self.job.tasks} - open_tasks

    def _may_start(self, group: Group) -> None:
        found = self.by_attempt[names.label(group.name)][self.record.attempts.get(group.name, 1)]
        own = [found[names.label(subtask.name)] for subtask in group.members]
        if max(following.number(pod, names.ANNOTATION_NOT_BEFORE) for pod in own) > self.now:
            return
        # What is open already, of a set that was interrupted, has its reservation.
        members = tuple(
            (place.server, {**pod_demand(pod["spec"]), PODS: 1})
            for place, pod in zip(group.assignments, own, strict=True)
            if pods.gated(pod)
        )
        seconds = max(place.seconds for place in group.assignments) / time_scale(group.task)
        key = f"{self.job.key}/{group.name}"
        self.decision.waiting.append((group.assignments[0].start, Waiting(key, members, seconds)))

    def _render(self, group: Group) -> list[Object]:
        attempt = self.record.attempts.get(group.name, 1)
        lost = self.record.failures.get(group.name, 0) + self.record.retries.get(group.name, 0)
        not_before = self.now + backoff(lost, self.job.uid, group.name, self.settings)
        return [
            pods.render(
                self.view.manifest,
                group.task,
                subtask,
                place,
                self._demand(subtask, place),
                revision=self.record.revision,
                attempt=attempt,
                scheduler=self.settings.scheduler,
                not_before=not_before if lost else None,
                simulator_image=self.settings.simulator_image,
            )
            for subtask, place in zip(group.members, group.assignments, strict=True)
        ]

    def _asking(self, subtask: Subtask) -> Subtask:
        """Return a subtask with the memory that its task was found to need."""
        return raised(subtask, self.record.memory.get(subtask.task, 1.0))

    def _demand(self, subtask: Subtask, place: Assignment) -> Vector:
        asking = self._asking(subtask)
        variant = checks.variant(asking, self.servers[place.server])
        return variant.demand if variant else asking.variants[0].demand

    # Reporting

    def _report(self, *, suspended: bool) -> None:
        phases = [self.looks[group.name].phase for group in self.groups]
        running = phases.count(Phase.RUNNING)
        succeeded = len(self.completed)
        # A suspended job is not active: its time starts anew when it is resumed, as a Job's does.
        started = None if suspended else self.status.get("startTime")
        if started is None and not suspended and (running or succeeded):
            started = reporting.stamp(self.now)
        wanted = self._conditions(suspended=suspended, running=running, started=started)
        over = "True" in (wanted["Succeeded"][0], wanted["Failed"][0])
        more: Object = {
            "queuePosition": 0 if over else self.view.position,
            "completed": reporting.ranges(self.completed),
            "subtaskCounts": self._counts(stopped=wanted["Failed"][0] == "True"),
            "requestCounts": self._requests(),
            "plan": reporting.summary(
                self.record.plan,
                self.record.revision,
                plans.name(self.view.manifest["metadata"]["name"]),
            ),
        }
        if self.failed:
            more["failed"] = reporting.ranges(self.failed)
        if started is not None or self.status.get("startTime"):
            more["startTime"] = started
        if over:
            more["completionTime"] = reporting.stamp(self.now)
        self.decision.status = status(self.view.manifest, wanted, self.now, **more)

    def _counts(self, *, stopped: bool = False) -> Object:
        """Count subtasks: the stages of a coupled set are several."""
        counts = dict.fromkeys(("total", "waiting", "running", "succeeded", "failed"), 0)
        for group in self.groups:
            if group.index in self.completed:
                state = "succeeded"
            elif group.index in self.failed:
                state = "failed"
            else:
                running = self.looks[group.name].phase is Phase.RUNNING and not stopped
                state = "running" if running else "waiting"
            counts[state] += len(group.members)
            counts["total"] += len(group.members)
        return counts

    def _requests(self) -> Object:
        total = completed = 0
        for group in self.groups:
            first, end = group.members[0].requests or (0, 0)
            total += end - first
            completed += end - first if group.index in self.completed else 0
        return {"total": total, "completed": completed, "failed": 0}

    def _conditions(
        self, *, suspended: bool, running: int, started: str | None
    ) -> reporting.Conditions:
        everything = len(self.completed) == len(self.groups)
        late = self._late(started)
        counts = self._counts()
        places = [self.looks[group.name].phase for group in self.groups]
        placed = sum(phase in PLACED for phase in places)
        wanted = {
            "Accepted": ("True", str(Reason.ACCEPTED), ""),
            "Planned": ("True", str(Reason.PLANNED), f"revision {self.record.revision}"),
            "Scheduled": ("True", str(Reason.ALL_BOUND), "")
            if placed == len(places)
            else ("False", str(Reason.WAITING), f"{counts['waiting']} subtasks wait"),
            "Running": ("True", str(Reason.RUNNING), f"{counts['running']} run")
            if running
            else ("False", str(Reason.WAITING), self._starting() or "none runs"),
            "Succeeded": ("False", str(Reason.RUNNING), ""),
            "Failed": ("False", str(Reason.RUNNING), ""),
        }
        if self.view.refusals:
            reason, message = reporting.refused(self.view.refusals)
            wanted["Planned"] = ("False", reason, message)
        if self.view.obstacle:
            wanted["Scheduled"] = ("False", str(Reason.POD_NOT_CREATED), self.view.obstacle)
        if suspended:
            wanted["Scheduled"] = ("False", str(Reason.SUSPENDED), Reason.SUSPENDED.sentence)
        if everything:
            wanted["Succeeded"] = ("True", str(Reason.SUCCEEDED), "")
            wanted["Running"] = ("False", str(Reason.SUCCEEDED), "")
        elif self.failed:
            message = "; ".join(list(self.failed.values())[:3])
            wanted["Failed"] = ("True", str(Reason.BACKOFF_LIMIT_EXCEEDED), message)
        elif late:
            wanted["Failed"] = ("True", str(Reason.DEADLINE_EXCEEDED), late)
        if wanted["Failed"][0] == "True":
            wanted["Running"] = ("False", wanted["Failed"][1], "what ran is stopped")
        return wanted

    def _starting(self) -> str:
        """Return what keeps a bound pod from running, as its kubelet says it."""
        looks = (look for look in self.looks.values() if look.phase is Phase.STARTING)
        return next((look.message for look in looks if look.message), "")

    def _late(self, started: str | None) -> str:
        deadline = self.spec.get("activeDeadlineSeconds")
        active = following.seconds_since(started, self.now)
        if deadline is None or active < deadline:
            return ""
        return f"active for {active:.0f} s, activeDeadlineSeconds is {deadline}"


PLACED = (Phase.STARTING, Phase.RUNNING, Phase.SUCCEEDED)
MEMORY_RAISED = 1.25
"""Factor on the memory estimate after an OOM kill."""
AVOIDED = 16
"""Servers a group remembers to avoid: more would leave it none on a small rack."""


def time_scale(task: Task) -> float:
    """Return the simulated seconds in one real second."""
    return task.work.time_scale if isinstance(task.work, Inference) else 1.0


def backoff(lost: int, uid: str, group: str, settings: Settings) -> float:
    """Return the pause before the next attempt in seconds: doubling, spread by its name."""
    if lost == 0:
        return 0.0
    digest = hashlib.sha256(f"{uid}/{group}/{lost}".encode()).digest()
    spread = 0.5 + digest[0] / 255
    return float(min(settings.backoff_most, 0.5 * 2 ** min(lost - 1, 10)) * spread)


def patches(
    group: Sequence[Object],
    shortlists: Mapping[str, Sequence[str]],
    task: Task,
    now: float,
    mode: str,
) -> list[tuple[Object, list[Object]]]:
    """Return the patch that opens each gate of a group.

    Parameters
    ----------
    group : sequence
        Pods of the group.
    shortlists : mapping
        Subtask to its servers, best first.
    task : Task
        Its constraints are multiplied in.
    now : float
    mode : str
        ``shortlist``, ``open`` or ``pin``; members of a coupled set are pinned in every mode.
    """
    opened = []
    for pod in group:
        if not pods.gated(pod):
            continue  # opened before an interruption
        servers = list(shortlists[pod["metadata"]["labels"][names.LABEL_SUBTASK]])
        if mode == "pin":
            servers = servers[:1]
        elif mode == "open" and len(group) == 1:
            servers = []
        opened.append((pod, pods.release(pod, servers, task.constraints.required, now)))
    return opened
