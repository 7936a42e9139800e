"""`make chaos`: kill what can be killed at random moments while jobs run, and look what is left.

Operator and extender are killed (`kill -9`) at twenty random moments, each time at work: a new
operator is let win the Lease first. Meanwhile a kubelet is killed five times and a whole node is
frozen five times, one outage of each kind so long that the node is given up and its task starts
anew elsewhere while the old container may run on. A pod that has succeeded is deleted while the
operator is down. Every job must end Succeeded, no outcome may be taken back, counted twice or run
again, and once the jobs are deleted nothing of them may be left.
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from rich.console import Console

from evenkeel_kube import names, plans, racks, statuses
from evenkeel_kube.plans import Record
from evenkeel_sandbox import attaching, judging
from evenkeel_sandbox.attaching import EXTENDER, OPERATOR
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.judging import Ledger
from evenkeel_sandbox.places import checkout, own
from evenkeel_sandbox.progress import shown
from evenkeel_sandbox.simulated import described
from evenkeel_sandbox.specs import TIMINGS, ClusterSpec, default_nodes

KILLS = 20
OUTAGES = 5
"""Of each kind; the first of each is long."""
PATIENCE = 240.0
"""Seconds the jobs get to end once the last thing was broken."""
LOST = 120.0
"""Seconds until a task on a lost node must have started anew: the grace period (6), what its pod
tolerates (30), and an operator that may have to win the Lease first."""
JOBS = f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs"
PODS = "/api/v1/namespaces/default/pods"
PLANS = f"/api/v1/configmaps?labelSelector={names.LABEL_PLAN}%3Dtrue"
CLAIM = "chaos"
"""The volume that all real containers write their lines to."""

Object = dict[str, Any]

DELETED = "deleted"
DELETED_PODS = 2


def _batch() -> Object:
    prompts = [f"question {number} " + "word " * 100 for number in range(24)]
    return {
        "model": {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"},
        "runtime": {"engine": "simulator", "timeScale": 2},
        "parallelism": {"data": 12},
        "input": {"prompts": prompts},
    }


def _pipeline() -> Object:
    return {
        "model": {"uri": "file://llama-3.1-70b-instruct-q4_k_m.gguf"},
        "runtime": {"engine": "simulator", "timeScale": 10},
        "parallelism": {"pipeline": 3, "data": 1},
        "input": {"prompts": ["one", "two", "three", "four"]},
    }


def _task(name: str, shards: int, *after: str, seconds: int = 2, **more: Any) -> Object:
    lines = "/workspace/lines"
    script = f"echo $HOSTNAME begins >>{lines}; sleep {seconds}; echo $HOSTNAME ends >>{lines}"
    container = {
        "name": "main",
        "image": "localhost/busybox:1",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}},
        "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
    }
    spec = {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    return {
        "name": name,
        "shards": shards,
        "dependsOn": list(after),
        "estimatedSeconds": seconds,
        "template": {"spec": spec},
        **more,
    }


def _dag() -> Object:
    return {"tasks": [_task("first", 2), _task("second", 3, "first"), _task("third", 1, "second")]}


KINDS = (_batch, _pipeline, _dag)


@dataclass(slots=True)
class Chaos:
    """One run."""

    cluster: Cluster
    console: Console
    seed: int
    nodes: tuple[str, ...]
    """Real nodes."""
    submitted: int = 0
    stream: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    began: float = field(default_factory=time.monotonic)
    done: Event = field(default_factory=Event)

    def say(self, line: str) -> None:
        """Print a line with the time."""
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        self.console.print(f"{minutes}:{seconds:02} {line}", soft_wrap=True, highlight=False)

    def items(self, path: str) -> list[Object]:
        """Return the objects of a collection."""
        found: list[Object] = self.cluster.api.get(path)["items"]
        return found

    def submit(self, name: str, spec: Object) -> None:
        """Create a job."""
        self.submitted += 1
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceJob",
            "metadata": {"name": name},
            "spec": {**spec, "backoffLimit": 0},
        }
        self.cluster.api.create(JOBS, body)

    def submit_next(self) -> None:
        """Create the next job of the stream."""
        number = self.stream
        self.stream += 1
        self.submit(f"chaos-{number + 1}", KINDS[number % len(KINDS)]())

    def pods(self, job: str) -> list[Object]:
        """Return the pods of a job."""
        return self.items(f"{PODS}?labelSelector={names.LABEL_JOB}%3D{job}")

    def records(self) -> dict[str, Record]:
        """Return the plans on record by job."""
        return {
            item["metadata"]["ownerReferences"][0]["name"]: plans.decode(
                item["binaryData"][plans.KEY]
            )
            for item in self.items(PLANS)
        }

    def lines(self) -> list[str]:
        """Return what the containers have written."""
        path = self.cluster.volume(CLAIM) / "lines"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait until it is so; what is not so in time is wrong."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                self.ledger.wrong.append(f"not within {seconds:.0f} s: {what}")
                return False
            time.sleep(0.2)
        return True

    # Breaking Evenkeel

    def kill(self, process: str, after: float, pause: float) -> None:
        """Let a process work for so many seconds, kill it and start it again a little later."""
        self.until(f"{process} works", lambda: self._works(process), 90)
        time.sleep(after)
        if not self.cluster.processes.kill(process):
            self.ledger.wrong.append(f"{process} was dead when it was to be killed")
        time.sleep(pause)
        self.cluster.restart(process)

    def _works(self, process: str) -> bool:
        """Tell whether a process works; one that ended by itself is told of and started again."""
        if not self.cluster.processes.identity(process):
            last = self.cluster.log(process).read_text(errors="replace").strip().splitlines()[-1:]
            self.ledger.wrong.append(f"{process} ended by itself: {''.join(last)[-400:]}")
            self.cluster.restart(process)
        return attaching.works(self.cluster, process)

    def break_evenkeel(self) -> None:
        """Kill operator and extender at random moments while jobs keep coming."""
        draw = random.Random(self.seed)  # noqa: S311 - to be repeatable
        order = [OPERATOR, EXTENDER] * (KILLS // 2)
        draw.shuffle(order)
        for number, process in enumerate(order, start=1):
            self.kill(process, draw.uniform(0.2, 6), draw.uniform(0, 2))
            ended, total = self.ended()
            self.say(f"kill -9 {process} ({number} of {KILLS}); {ended} of {total} jobs have ended")
            if number % 2 == 0:
                self.submit_next()

    def delete_a_success(self) -> None:
        """Delete pods that succeeded while nobody was looking."""
        self.submit(DELETED, {"tasks": [_task("only", DELETED_PODS)]})
        self.until(f"the pods of {DELETED} are bound", lambda: self._all(_bound))
        self.cluster.kill(OPERATOR)
        self.until(f"the pods of {DELETED} succeed", lambda: self._all(_succeeded))
        gone = [pod["metadata"]["name"] for pod in self.pods(DELETED)]
        for pod in gone:
            self.cluster.api.call("DELETE", f"{PODS}/{pod}")
        self.say(f"deleted {', '.join(gone)}, which had succeeded, while the operator is down")
        self.cluster.restart(OPERATOR)

    def _all(self, true: Callable[[Object], bool]) -> bool:
        pods = self.pods(DELETED)
        return len(pods) == DELETED_PODS and all(map(true, pods))

    # Breaking nodes

    @contextmanager
    def frozen(self, node: str) -> Iterator[None]:
        """Stop a whole node for a while."""
        self.cluster.freeze(node)
        try:
            yield
        finally:
            self.cluster.thaw(node)

    @contextmanager
    def without_kubelet(self, node: str) -> Iterator[None]:
        """Kill a node's kubelet for a while; the containers run on."""
        self.cluster.kill(f"{node}/kubelet")
        try:
            yield
        finally:
            self.cluster.restart(f"{node}/kubelet")

    def break_nodes(self) -> None:
        """Let nodes go and come back, one after the other."""
        draw = random.Random(self.seed + 1)  # noqa: S311 - to be repeatable
        kinds = (("kubelet killed", self.without_kubelet), ("node frozen", self.frozen))
        for number, (what, broken) in itertools.product(range(1, OUTAGES + 1), kinds):
            told = f"{what} ({number} of {OUTAGES})"
            if number == 1:
                self._lose(told, broken)
            else:
                node, seconds = draw.choice(self.nodes), draw.uniform(3, 12)
                self.say(f"{told}: {node} for {seconds:.0f} s")
                with broken(node):
                    time.sleep(seconds)
            time.sleep(draw.uniform(1, 4))

    def _lose(self, told: str, broken: Callable[[str], Any]) -> None:
        """Break a node under a task that may be retried, until it is given up."""
        name = f"lost-{told.partition(' ')[0]}"
        self.submit(name, {"tasks": [_task("only", 1, seconds=15, retryOnNodeLoss=True)]})
        if not self.until(f"{name} runs", lambda: any(map(_running, self.pods(name))), 150):
            return
        node = next(pod["spec"]["nodeName"] for pod in self.pods(name) if _bound(pod))
        self.say(f"{told}: {node} under {name}, until it is given up")
        began = time.monotonic()
        with broken(node):
            what = f"{name} starts anew although {node} is lost"
            if self.until(what, lambda: bool(self.records()[name].attempts), LOST):
                self.say(f"{name} starts anew after {time.monotonic() - began:.0f} s")

    # Watching

    def watch(self) -> None:
        """Look again and again until all is done."""
        while not self.done.wait(0.5):
            try:
                pods, jobs = self.items(PODS), self.items(JOBS)
                self.ledger.look(pods, jobs, self.records())
            except SandboxError:
                continue

    def ended(self) -> tuple[int, int]:
        """Return how many jobs have ended, and how many there are."""
        jobs = self.items(JOBS)
        return sum(statuses.state(job) in statuses.ENDED for job in jobs), len(jobs)

    def run(self) -> None:
        """Break things at random moments while jobs keep coming, then let all come to rest."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            watching = pool.submit(self.watch)
            for _ in range(6):
                self.submit_next()
            nodes = pool.submit(self.break_nodes)
            try:
                self.break_evenkeel()
                nodes.result()
                self.delete_a_success()
                self._settle()
            finally:
                self.done.set()
        for future in (watching, nodes):
            future.result()

    def _settle(self) -> None:
        end = time.monotonic() + PATIENCE
        told = -1
        while time.monotonic() < end:
            ended, total = self.ended()
            if ended != told:
                self.say(f"{ended} of {total} jobs have ended")
                told = ended
            if ended == total:
                return
            self._works(OPERATOR)
            time.sleep(1)

    # Judging

    def judge(self) -> Iterator[str]:
        """Yield what is wrong with the jobs and what their pods still hold."""
        records, lines = self.records(), self.lines()
        for job in self.items(JOBS):
            name = job["metadata"]["name"]
            if name not in records:
                yield f"{name} has no plan on record"
                continue
            yield from judging.whole(job, records[name], lines)
        ran = judging.runs(lines, DELETED)
        if len(ran) != DELETED_PODS:
            yield f"the subtasks of {DELETED} should have run once each, ran: {', '.join(ran)}"
        if not self.until("the pods of ended jobs hold nothing", lambda: not self._held()):
            yield from self._held()

    def _held(self) -> list[str]:
        return [why for pod in self.items(PODS) if (why := judging.unsettled(pod))]

    def leftovers(self) -> Iterator[str]:
        """Delete the jobs and yield what is left of them."""
        self.cluster.kubectl("delete", "inferencejobs", "--all", "--wait=false")
        if not self.until("nothing is left of the jobs", lambda: not self._left(), 90):
            yield from self._left()
        assumed = "evenkeel_extender_assumed_pods"
        self.until(
            "the extender reserves nothing",
            lambda: attaching.metric(self.cluster, EXTENDER, assumed) == 0,
        )

    def _left(self) -> list[str]:
        found = [(path, item) for path in (JOBS, PODS, PLANS) for item in self.items(path)]
        return [f"left behind: {path} {item['metadata']['name']}" for path, item in found]


def _bound(pod: Object) -> bool:
    return bool(pod["spec"].get("nodeName"))


def _running(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")


def _succeeded(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Succeeded")


def main() -> int:
    """Run the chaos; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--name", default=own("chaos"), help="of the sandbox; default %(default)s")
    parser.add_argument("--seed", type=int, default=None, help="default: another every time")
    options = parser.parse_args()
    console = Console(markup=False)
    try:
        return _run(options.name, options.seed, console)
    except SandboxError as error:
        console.print(f"chaos: {error}", style="red", soft_wrap=True)
        return 2


def _run(name: str, seed: int | None, console: Console) -> int:
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    console.print(f"seed {seed}")
    root = checkout()
    rack = racks.read((root / "examples" / "servers.yaml").read_text(encoding="utf-8"))
    spec = ClusterSpec(
        nodes=default_nodes(root / "kind-config.yaml"),
        simulated=described(rack),
        profiles=rack.profiles,
        timing=TIMINGS["fast"],
        evenkeel=True,
    )
    cluster = Cluster.fresh(name, spec, shown(console))
    try:
        nodes = tuple(node.name for node in cluster.state.nodes)
        if not nodes:
            raise SandboxError("there are no real nodes to break on this machine")
        cluster.apply(cluster.workspace(CLAIM)["items"])
        chaos = Chaos(cluster, console, seed, nodes)
        chaos.run()
        wrong = [*chaos.judge(), *chaos.leftovers(), *chaos.ledger.wrong]
    finally:
        cluster.down()
    for line in wrong:
        console.print(line, style="red", soft_wrap=True)
    chaos.say(f"{chaos.submitted} jobs, {len(wrong)} things wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
