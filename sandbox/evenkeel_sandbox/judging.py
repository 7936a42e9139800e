"""What must hold of jobs whatever is broken while they run; `chaos` breaks, this looks.

Nothing here asks a cluster: pods, jobs, plans and what the containers wrote come in as they were
read. Containers write two lines, ``POD begins`` and ``POD ends``, into a file that all share, and
a pod's name holds its attempt: so what really ran can be held against what was accepted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel_kube import names, statuses
from evenkeel_kube.plans import Record
from evenkeel_kube.pods import pod_name

Object = Mapping[str, Any]


@dataclass(slots=True)
class Ledger:
    """What was seen, look by look."""

    wrong: list[str] = field(default_factory=list)
    _accepted: dict[str, dict[str, int]] = field(default_factory=dict)
    """By job: each completed subtask with the attempt that counted."""
    _pods: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Uids of the pods of a subtask."""

    def look(
        self, pods: Iterable[Object], jobs: Iterable[Object], records: Mapping[str, Record]
    ) -> None:
        """Take in one look; the pods must have been listed before the jobs."""
        for pod in pods:
            self._see(pod)
        for job in jobs:
            name = job["metadata"]["name"]
            if name in records:
                self._accept(job, records[name])

    def _see(self, pod: Object) -> None:
        labels, metadata = pod["metadata"].get("labels") or {}, pod["metadata"]
        if names.LABEL_SUBTASK not in labels:
            return
        job, subtask = labels[names.LABEL_JOB], labels[names.LABEL_SUBTASK]
        seen = self._pods.setdefault((job, subtask), set())
        if metadata["uid"] in seen:
            return
        seen.add(metadata["uid"])
        if subtask in self._accepted.get(job, {}):
            self.wrong.append(f"{job}: {subtask} was run again as pod {metadata['name']}")

    def _accept(self, job: Object, record: Record) -> None:
        name = job["metadata"]["name"]
        before = self._accepted.setdefault(name, {})
        now = _attempts(job, record)
        if gone := sorted(before.keys() - now.keys()):
            self.wrong.append(f"{name}: {', '.join(gone)} had completed and have not")
        for subtask in before.keys() & now.keys():
            if before[subtask] != now[subtask]:
                self.wrong.append(
                    f"{name}: {subtask} was accepted of attempt {before[subtask]} and again of "
                    f"attempt {now[subtask]}"
                )
        self._accepted[name] = now


def _attempts(job: Object, record: Record) -> dict[str, int]:
    """Return the completed subtasks, each with the attempt that counts."""
    done = statuses.indexes((job.get("status") or {}).get("completed"))
    return {
        names.label(subtask.name): record.attempts.get(subtask.group, 1)
        for subtask in record.plan.graph.subtasks
        if subtask.index in done
    }


def whole(job: Object, record: Record, lines: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with a job that should have succeeded.

    `lines` are what the containers wrote; a job none of whose pods wrote one is simulated.
    """
    name = job["metadata"]["name"]
    if statuses.condition(job, "Succeeded").get("status") != "True":
        messages = [
            f"{item['reason']}: {item.get('message', '')}"
            for item in (job.get("status") or {}).get("conditions") or ()
            if item["status"] == "False" or item["type"] == "Failed"
        ]
        yield f"{name} is {statuses.state(job)}: {'; '.join(messages)[:400]}"
        return
    missing = {names.label(item.name) for item in record.plan.graph.subtasks} - _attempts(
        job, record
    ).keys()
    if missing:
        yield f"{name} has succeeded without {', '.join(sorted(missing))}"
    if any(task.get("template") for task in job["spec"].get("tasks") or ()):
        yield from _ran_once(job, record, lines)


def _ran_once(job: Object, record: Record, lines: Sequence[str]) -> Iterator[str]:
    """Yield the subtasks whose accepted attempt did not run exactly once."""
    name = job["metadata"]["name"]
    for subtask in record.plan.graph.subtasks:
        attempt = record.attempts.get(subtask.group, 1)
        pod = pod_name(job["metadata"], subtask.name, attempt)
        counts = (lines.count(f"{pod} begins"), lines.count(f"{pod} ends"))
        if counts != (1, 1):
            yield (
                f"{name}: the accepted attempt {attempt} of {subtask.name} began {counts[0]} times "
                f"and ended {counts[1]} times"
            )


def runs(lines: Iterable[str], job: str) -> list[str]:
    """Return the pods of a job whose containers began, in that order."""
    began = (line.removesuffix(" begins") for line in lines if line.endswith(" begins"))
    return [pod for pod in began if pod.startswith(f"{job}-")]


def unsettled(pod: Object) -> str | None:
    """Return what a pod of an ended job still holds, None where it holds nothing."""
    metadata, spec = pod["metadata"], pod["spec"]
    if names.FINALIZER in (metadata.get("finalizers") or ()):
        return f"pod {metadata['name']} still has the finalizer {names.FINALIZER}"
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return None
    if spec.get("schedulingGates"):
        return f"pod {metadata['name']} still waits behind its gate"
    if not spec.get("nodeName"):
        server = metadata.get("annotations", {}).get(names.ANNOTATION_SERVER)
        return f"pod {metadata['name']} still reserves {server}"
    return f"pod {metadata['name']} still runs on {spec['nodeName']}"
