"""The loop: gather, decide, act, for all jobs in one pass.

Level-triggered: an event only wakes the loop. What a pass needs is in the API server; what this
process remembers beside it (inputs already read, plans that could not be made, jobs as last
written) only saves work.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import kopf
import msgspec

from evenkeel_core import admitting, planning, releasing
from evenkeel_core.jobs import Job
from evenkeel_core.plans import Plan, Refusal
from evenkeel_core.reasons import Reason
from evenkeel_kube import client, jobs, names, plans, statuses, volumes
from evenkeel_kube.client import ApiError, Client, Conflict
from evenkeel_operator import deciding, following, gathering, handlers, metrics, reporting
from evenkeel_operator.acting import JOBS, Actor
from evenkeel_operator.deciding import Decision, Group, View
from evenkeel_operator.gathering import Caches, Snapshot
from evenkeel_operator.leading import LeadershipLostError
from evenkeel_operator.settings import Settings

log = logging.getLogger(__name__)

Object = dict[str, Any]

RELIST = 60.0
"""Seconds between looks for jobs that vanished while kopf was not watching."""
LOOK_EVERY = 5.0
"""Seconds between looks for an input that is not there."""
REFUSED_AGAIN = 30.0
"""Seconds until pods are tried again of which the API server refused one."""
STATUS_EVERY = 1.0
"""Seconds between two writes of mere counts of one job."""


class StoppedError(Exception):
    """A signal asked this process to end."""


@dataclass(slots=True)
class Memory:
    """What is remembered of one job between passes, to save work."""

    lines: Sequence[str] | None = None
    looked: float = -math.inf
    """Monotonic time of the last look for lines that were not there."""
    missing: str = ""
    """What that look found."""
    job: tuple[object, Job] | None = None
    """The job as last read, and from what."""
    groups: tuple[plans.Record, dict[str, Group]] | None = None
    """The groups of a plan, and of which."""
    refusals: tuple[Refusal, ...] = ()
    obstacle: str = ""
    """Why the API server refused the last pod."""
    again: float = -math.inf
    """Monotonic time before which no pod is created, since one was refused."""
    signature: int = 0
    wrote: float = 0.0
    status: Object = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    refused: tuple[str, str] = ("", "")
    """Reason and message of the last refusal that was told as an event."""
    defect: str = ""
    """What failed in this operator at the last try, were it its own fault."""


class Operator:
    """The reconciling loop of one leader.

    Parameters
    ----------
    api : Client
    settings : Settings
    now : callable
        Seconds since the epoch.
    confirm : callable
        Raises where this process may not lead any more; asked before every write.
    """

    def __init__(
        self,
        api: Client,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._settings = settings
        self._now = now
        self._wake = asyncio.Event()
        self._jobs: dict[str, Object] = {}
        self._memory: dict[str, Memory] = {}
        self._caches = Caches(api, self._wake.set)
        self._servers = gathering.Servers()
        self._records: dict[str, tuple[str, plans.Record | plans.RecordError]] = {}
        self._confirm = confirm
        self._actor = Actor(api, self._caches, settings.concurrency, confirm)
        self._listed = 0.0

    # Watching

    def seen(self, kind: str, job: Object) -> None:
        """Take over a job as kopf saw it."""
        key = _key(job)
        if kind != "DELETED":
            self._keep(job)
        elif key in self._jobs and _uid(self._jobs[key]) == _uid(job):
            del self._jobs[key]  # and not a namesake that was created since
        self._wake.set()

    def _keep(self, job: Object) -> None:
        key = _key(job)
        held = self._jobs.get(key)
        if held is None or _version(job) >= _version(held):
            job["metadata"].pop("managedFields", None)
            self._jobs[key] = job

    async def run(self) -> None:
        """Watch and reconcile until cancelled; ends with an error if a watcher does."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._caches.all():
                tasks.create_task(reflector.run())
            for reflector in self._caches.all():
                await reflector.synced.wait()
            await self._relist()
            tasks.create_task(self._watch_jobs())
            tasks.create_task(self._loop())

    async def _watch_jobs(self) -> None:
        await kopf.operator(
            registry=handlers.registry(self.seen),
            settings=handlers.settings(),
            standalone=True,
            clusterwide=True,
        )
        # kopf takes the signals of the process for itself and returns when one came.
        raise StoppedError

    async def _relist(self) -> None:
        """Forget jobs that vanished while nobody was watching."""
        found, version = await self._api.list(client.path(names.API_VERSION, JOBS))
        there = {_key(job): _uid(job) for job in found}
        for key, job in list(self._jobs.items()):
            # What is newer than the list was created while it was read.
            if there.get(key) != _uid(job) and _version(job) <= int(version):
                del self._jobs[key]
        for job in found:
            job.setdefault("apiVersion", names.API_VERSION)
            job.setdefault("kind", "InferenceJob")
            self._keep(job)
        self._listed = time.monotonic()

    async def _loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.resync):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(self._settings.settle)
            self._wake.clear()
            began = time.monotonic()
            try:
                if began - self._listed > RELIST:
                    await self._relist()
                self._confirm()
                await self._pass()
                metrics.LAST_PASS.set_to_current_time()
                metrics.PASSES.labels("ok").inc()
            except ApiError as error:
                metrics.PASSES.labels("error").inc()
                log.warning("pass: %s", error)
                await asyncio.sleep(self._settings.resync)
            metrics.PASS_SECONDS.observe(time.monotonic() - began)

    # One pass: gather, decide, act

    async def _pass(self) -> None:
        now = self._now()
        snapshot = gathering.snapshot(self._caches, self._servers)
        views = await self._views(snapshot)
        decisions: dict[str, Decision] = {}
        for key, view in views.items():
            with self._apart(view.manifest):
                decisions[key] = deciding.decide(view, snapshot.servers, now, self._settings)
        await self._plan(views, decisions, snapshot)
        await asyncio.gather(
            *(self._act(views[key].manifest, decision, now) for key, decision in decisions.items())
        )
        await self._release(views, decisions, snapshot, now)
        await self._orphans(snapshot)
        metrics.JOBS.set(len(views))

    @contextmanager
    def _apart(self, job: Object) -> Iterator[None]:
        """Keep one job's trouble from the others: log it, count it, go on with the next."""
        try:
            yield
        except LeadershipLostError:
            raise
        except ApiError as error:
            metrics.WRITE_ERRORS.inc()
            log.warning("%s: %s", _key(job), error)
        except Exception as error:
            memory = self._memory.setdefault(_uid(job), Memory())
            metrics.DEFECTS.inc()
            if repr(error) not in memory.told:
                memory.told.add(repr(error))
                log.exception("%s: %s", _key(job), Reason.DEFECT.sentence)
            memory.defect = f"{type(error).__name__}: {error}"

    async def _views(self, snapshot: Snapshot) -> dict[str, View]:
        self._forget_the_gone()
        known = dict(self._jobs)  # jobs come and go while inputs are read
        records = {key: self._recorded(job) for key, job in known.items()}
        queued = [
            self._queued(key, job, records[key])
            for key, job in known.items()
            if not reporting.finished(job)
        ]
        admitted = admitting.admitted(queued)
        positions = {item.key: place for place, item in enumerate(admitting.queue(queued))}
        signature = snapshot.signature()
        views = {}
        for key in sorted(known, key=lambda key: (positions.get(key, len(positions)), key)):
            job = known[key]
            if job["metadata"].get("deletionTimestamp"):
                continue
            memory = self._memory.setdefault(_uid(job), Memory())
            if memory.signature != signature:
                memory.refusals, memory.signature = (), signature
            read, problem = await self._seen(job, memory, records[key], snapshot)
            views[key] = View(
                manifest=job,
                job=read,
                problem=problem,
                record=records[key],
                pods=snapshot.by_job.get(_owner(job), ()),
                refusals=memory.refusals,
                obstacle=memory.obstacle,
                steady=snapshot.steady,
                admitted=key in admitted,
                position=positions.get(key, 0),
            )
        return views

    def _forget_the_gone(self) -> None:
        live = {_uid(job) for job in self._jobs.values()}
        for remembered in (self._memory, self._records):
            for uid in [uid for uid in remembered if uid not in live]:
                del remembered[uid]

    async def _seen(
        self, job: Object, memory: Memory, record: plans.Record | None, snapshot: Snapshot
    ) -> tuple[Job | None, tuple[Reason, str] | None]:
        """Return the job as it may run now, or why it can't be worked on."""
        _, on_record = self._records.get(_uid(job), ("", None))
        if isinstance(on_record, plans.RecordError):
            # Its attempts are in it: to plan anew would start their numbers again.
            return None, (Reason.PLAN_NOT_READABLE, str(on_record))
        with self._apart(job):
            read, problem = await self._read(job, memory, record)
            if read is not None:
                read = volumes.confined(read, job, snapshot.storage)
            return read, problem
        return None, (Reason.DEFECT, memory.defect or Reason.DEFECT.sentence)

    def _recorded(self, job: Object) -> plans.Record | None:
        """Return the plan on record, if it is of this job and not of a namesake's."""
        metadata = job["metadata"]
        found = self._caches.plans.items.get(
            f"{metadata['namespace']}/{plans.name(metadata['name'])}"
        )
        if found is None or found["metadata"]["labels"].get(names.LABEL_JOB_UID) != metadata["uid"]:
            self._records.pop(metadata["uid"], None)
            return None
        uid, version = metadata["uid"], found["metadata"]["resourceVersion"]
        held = self._records.get(uid)
        if held is None or held[0] != version:
            held = self._records[uid] = (version, _decoded(found))
        return held[1] if isinstance(held[1], plans.Record) else None

    def _queued(self, key: str, job: Object, record: plans.Record | None) -> admitting.Queued:
        return admitting.Queued(
            key=key,
            priority=self._priority(job),
            created=job["metadata"]["creationTimestamp"],
            subtasks=len(record.plan.assignments) if record else 1,
            suspended=bool(job["spec"].get("suspend")),
        )

    def _priority(self, job: Object) -> int:
        name = job["spec"].get("priorityClassName")
        classes = self._caches.priorities.items
        if name:
            return int(classes.get(name, {}).get("value", 0))
        return next((int(c["value"]) for c in classes.values() if c.get("globalDefault")), 0)

    async def _read(
        self, job: Object, memory: Memory, record: plans.Record | None
    ) -> tuple[Job | None, tuple[Reason, str] | None]:
        """Return the job as the core sees it, or why it can't be seen yet."""
        if reporting.finished(job):
            return None, None
        given = job["spec"].get("input") or {}
        if given.get("persistentVolumeClaim"):
            message = "input on a claim is read by the feeder, which this release does not have"
            return None, (Reason.INSPECTING, message)
        reference = given.get("configMapRef")
        if reference and memory.lines is None:
            await self._look_for_lines(job, reference, memory)
            if memory.lines is None and record is None:
                return None, (Reason.INSPECTING, memory.missing)
        source = (job["metadata"].get("generation"), self._priority(job), memory.lines is None)
        if memory.job is not None and memory.job[0] == source:
            return memory.job[1], None
        try:
            read = jobs.job(job, priority=self._priority(job), lines=memory.lines)
        except jobs.UnknownModel as error:
            return None, (Reason.MODEL_UNKNOWN, str(error))
        except jobs.InvalidJob as error:
            return None, (Reason.NOT_ACCEPTED, str(error))
        reason = deciding.unavailable(read)
        if reason is not None:
            return None, (Reason.ENGINE_UNAVAILABLE, reason)
        memory.job = (source, read)
        return read, None

    async def _look_for_lines(
        self, job: Object, reference: Mapping[str, str], memory: Memory
    ) -> None:
        """Read the input, now and then where it was not there."""
        if time.monotonic() - memory.looked < LOOK_EVERY:
            return
        memory.lines, memory.missing = await self._lines(job, reference)
        memory.looked = time.monotonic()

    async def _lines(
        self, job: Object, reference: Mapping[str, str]
    ) -> tuple[list[str] | None, str]:
        namespace, name = job["metadata"]["namespace"], reference["name"]
        key = reference.get("key", "requests.jsonl")
        found = await self._actor.config_map(namespace, name)
        if found is None:
            return None, f"input.configMapRef: there is no ConfigMap {namespace}/{name}"
        text = (found.get("data") or {}).get(key)
        if text is None:
            return None, f"input.configMapRef: ConfigMap {namespace}/{name} has no key {key}"
        try:
            return jobs.request_lines(text), ""
        except jobs.InvalidJob as error:
            return None, str(error)

    # Planning

    async def _plan(
        self, views: Mapping[str, View], decisions: dict[str, Decision], snapshot: Snapshot
    ) -> None:
        """Make the plans that are asked for; in a thread, for the loop has a Lease to renew."""
        fresh: dict[str, float] = {}
        for key, decision in list(decisions.items()):
            if not (decision.plan or decision.replan):
                continue
            planned = False
            with self._apart(views[key].manifest):
                fresh = await self._plan_one(views[key], decision, snapshot, fresh)
                planned = True
            if not planned:
                del decisions[key]  # what was to be recorded beside the plan is not

    async def _plan_one(
        self, view: View, decision: Decision, snapshot: Snapshot, fresh: dict[str, float]
    ) -> dict[str, float]:
        """Plan a job, or a part of it anew; return the loads that plans of this pass commit."""
        assert view.job is not None  # noqa: S101 - else nothing asks for a plan
        uid = _uid(view.manifest)
        # Plans of this very pass have no pods yet that would show in the snapshot.
        loads = _sum(gathering.loads(snapshot.own, uid), fresh)
        servers = list(snapshot.servers.values())
        began = time.monotonic()
        if decision.plan:
            made = await asyncio.to_thread(planning.plan, view.job, servers, loads)
        else:
            made = await asyncio.to_thread(_replan, view, decision, servers, loads)
        metrics.PLAN_SECONDS.observe(time.monotonic() - began)
        self._take_over(view, decision, made)
        if not decision.plan:
            return fresh
        groups = {subtask.group for subtask in made.graph.subtasks}
        return _sum(fresh, planning.committed(made, groups))

    def _take_over(self, view: View, decision: Decision, made: Plan) -> None:
        memory = self._memory[view.manifest["metadata"]["uid"]]
        if not made.feasible:
            memory.refusals = made.refusals
            reason, message = reporting.refused(made.refusals)
            decision.events = [e for e in decision.events if e[1] != Reason.REPLANNED]
            if (reason, message) != memory.refused:
                memory.refused = (reason, message)
                decision.events.append(("Warning", reason, message))
            if decision.record is not None and view.record is not None:
                decision.record = _uncounted(decision.record, view.record, decision.moving)
            self._wake.set()
            return
        memory.refusals = ()
        if decision.plan:
            # Pods of a plan that is not on record any more may run on: their attempts are over.
            decision.record = plans.Record(1, made, following.attempts_after(view.pods, made))
            seconds = f"{made.makespan:.0f} s"
            message = f"{len(made.assignments)} subtasks planned, predicted {seconds}"
            decision.events.append(("Normal", str(Reason.PLANNED), message))
        elif decision.record is not None:
            decision.record = msgspec.structs.replace(
                decision.record, plan=made, revision=decision.record.revision + 1
            )

    # Acting

    async def _act(self, job: Object, decision: Decision, now: float) -> None:
        """Write what a job needs; its trouble is not the others': the next pass tries again."""
        with self._apart(job):
            try:
                await self._write(job, decision, now)
            except Conflict as error:
                log.info("%s changed meanwhile: %s", _key(job), error)

    async def _write(self, job: Object, decision: Decision, now: float) -> None:
        """Write first what must be on record, then what depends on it."""
        if decision.record is not None:
            metadata = job["metadata"]
            name = f"{metadata['namespace']}/{plans.name(metadata['name'])}"
            before = self._caches.plans.items.get(name)
            if await self._actor.record(job, decision.record, before) is None:
                self._not_recorded(job, decision, before, now)
                await self._write_status(job, decision.status, now)
                return
            self._wake.set()
        await self._write_status(job, decision.status, now)
        errors = await self._actor.strip(decision.strip)
        errors += await self._actor.delete(decision.delete)
        errors += await self._create(job, decision, now)
        for kind, reason, message in decision.events:
            metrics.EVENTS.labels(reason).inc()
            await self._actor.event(job, kind, reason, message, now)
        if decision.remove:
            await self._actor.remove(job)
        for error in errors[:3]:
            log.warning("write: %s", error)
        metrics.WRITE_ERRORS.inc(len(errors))

    def _not_recorded(
        self, job: Object, decision: Decision, before: Object | None, now: float
    ) -> None:
        """Say what keeps a plan off the record, where it is more than a race with ourselves."""
        if before is not None:
            return
        name = plans.name(job["metadata"]["name"])
        message = f"a ConfigMap {name} that is not this job's plan is in the way; delete it"
        wanted = {"Planned": ("False", str(Reason.PLAN_NOT_WRITTEN), message)}
        decision.status = deciding.status(job, wanted, now)

    async def _create(self, job: Object, decision: Decision, now: float) -> list[ApiError]:
        memory = self._memory[_uid(job)]
        if not decision.create or time.monotonic() < memory.again:
            return []
        errors = await self._actor.create(decision.create)
        refused = next(
            (e for e in errors if isinstance(e, client.Invalid | client.Forbidden)), None
        )
        memory.obstacle = "" if refused is None else refused.message
        if refused is not None:
            memory.again = time.monotonic() + REFUSED_AGAIN
            if refused.message not in memory.told:
                memory.told.add(refused.message)
                reason = str(Reason.POD_NOT_CREATED)
                await self._actor.event(job, "Warning", reason, refused.message, now)
        elif len(decision.create) >= self._settings.create_batch:
            self._wake.set()
        return errors

    async def _write_status(self, job: Object, status: Object, now: float) -> None:
        """Write what changed: transitions at once, mere counts now and then."""
        if not status:
            return
        before = job.get("status") or {}
        changed = {key: value for key, value in status.items() if before.get(key) != value}
        if not changed:
            return
        memory = self._memory[job["metadata"]["uid"]]
        counts = {"subtaskCounts", "requestCounts", "queuePosition", "conditions", "completed"}
        urgent = changed.keys() - counts or _transitions(before, status)
        if not urgent and now - memory.wrote < STATUS_EVERY:
            return
        written = await self._actor.status(job, changed)
        memory.wrote = now
        if written is None:
            self._jobs.pop(_key(job), None)
        else:
            self._keep(written)
        self._wake.set()

    async def _release(
        self,
        views: Mapping[str, View],
        decisions: Mapping[str, Decision],
        snapshot: Snapshot,
        now: float,
    ) -> None:
        """Open the gates that may fall: over all jobs, in the order of the queue."""
        waiting = [
            item
            for decision in decisions.values()
            for _, item in sorted(decision.waiting, key=lambda pair: (pair[0], pair[1].key))
        ]
        if not waiting:
            return
        taken = gathering.occupied(snapshot.own, now)
        released = releasing.release(waiting, gathering.room(snapshot.servers), taken)
        opened = []
        for key in released.now:
            job_key, _, group = key.rpartition("/")
            with self._apart(views[job_key].manifest):
                opened += self._patches(views[job_key], group, now)
        errors = await self._actor.open(opened)
        for error in errors[:3]:
            log.warning("release: %s", error)

    def _patches(self, view: View, name: str, now: float) -> list[tuple[Object, list[Object]]]:
        assert view.job is not None  # noqa: S101 - it has waiting groups
        assert view.record is not None  # noqa: S101
        record, memory = view.record, self._memory[_uid(view.manifest)]
        if memory.groups is None or memory.groups[0] is not record:
            memory.groups = (record, {g.name: g for g in deciding.groups(view.job, record)})
        group = memory.groups[1][name]
        attempt = record.attempts.get(name, 1)
        found = [
            pod
            for pod in view.pods
            if pod["metadata"]["labels"][names.LABEL_GROUP] == names.label(name)
            and following.attempt(pod) == attempt
        ]
        shortlists = {
            names.label(place.subtask): place.shortlist[: self._settings.shortlist]
            for place in group.assignments
        }
        return deciding.patches(found, shortlists, group.task, now, self._settings.mode)

    async def _orphans(self, snapshot: Snapshot) -> None:
        """Let the pods of jobs that are gone go, once the API server confirms that they are."""
        live = {
            _owner(job)
            for job in self._jobs.values()
            if not job["metadata"].get("deletionTimestamp")
        }
        for owner, found in snapshot.by_job.items():
            held = [p for p in found if names.FINALIZER in p["metadata"].get("finalizers", ())]
            if owner in live or not held or await self._actor.exists(held[0]):
                continue
            await self._actor.delete(p for p in held if not p["metadata"].get("deletionTimestamp"))
            await self._actor.strip(held)


def _decoded(config_map: Object) -> plans.Record | plans.RecordError:
    try:
        return gathering.record(config_map)
    except plans.RecordError as error:
        return error


def _replan(view: View, decision: Decision, servers: list[Any], loads: dict[str, float]) -> Plan:
    assert view.job is not None  # noqa: S101 - the caller has looked
    assert view.record is not None  # noqa: S101
    kept = {subtask.group for subtask in view.record.plan.graph.subtasks} - set(decision.replan)
    done = statuses.indexes((view.manifest.get("status") or {}).get("completed"))
    open_groups = {
        group.name
        for group in deciding.groups(view.job, view.record)
        if group.name in kept and group.index not in done
    }
    loads = _sum(loads, planning.committed(view.record.plan, open_groups))
    return planning.replan(
        view.job,
        view.record.plan,
        set(decision.replan),
        servers,
        loads,
        avoid=decision.replan,
        memory=view.record.memory,
    )


def _uncounted(
    changed: plans.Record, before: plans.Record, moving: Collection[str]
) -> plans.Record:
    """Return the record without the retries of groups that found no server to move to."""
    retries = {name: count for name, count in changed.retries.items() if name not in moving}
    retries |= {name: count for name, count in before.retries.items() if name in moving}
    return msgspec.structs.replace(changed, retries=retries)


def _sum(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of two loads by server."""
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}


def _transitions(before: Object, after: Object) -> bool:
    """Tell whether the status of a condition changed."""

    def statuses(status: Object) -> dict[str, str]:
        return {c["type"]: c["status"] + c["reason"] for c in status.get("conditions") or ()}

    return statuses(before) != statuses(after)


def _key(job: Object) -> str:
    return f"{job['metadata']['namespace']}/{job['metadata']['name']}"


def _owner(job: Object) -> str:
    """Return the key of a job's pods in a snapshot."""
    return f"{job['metadata']['namespace']}/{_uid(job)}"


def _uid(job: Object) -> str:
    return str(job["metadata"]["uid"])


def _version(job: Object) -> int:
    version = str(job["metadata"].get("resourceVersion", "0"))
    return int(version) if version.isdigit() else 0
