"""`make chaos`: kill what can be killed at random moments while jobs run, and look what is left.

Operator and extender are killed (`kill -9`) at twenty random moments, a kubelet is killed or a
node is frozen five times, and a pod that has succeeded is deleted while the operator is down.
Every job must end Succeeded, no outcome may be taken back or counted twice, and once the jobs
are deleted nothing of them may be left.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from evenkeel_kube import names, plans, racks
from evenkeel_sandbox.attaching import EXTENDER, OPERATOR
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.demo import condition, state
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.progress import shown
from evenkeel_sandbox.simulated import described
from evenkeel_sandbox.specs import TIMINGS, ClusterSpec, default_nodes

ROOT = Path(__file__).parents[2]
KILLS = 20
NODE_FAILURES = 5
PATIENCE = 300.0
"""Seconds the jobs get to end once the last thing was broken."""
JOBS = f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs"
PODS = "/api/v1/namespaces/default/pods"

Object = dict[str, Any]


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


def _dag() -> Object:
    def task(name: str, shards: int, *after: str) -> Object:
        container = {
            "name": "main",
            "image": "localhost/busybox:1",
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", "sleep 2; echo done"],
            "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}},
        }
        return {
            "name": name,
            "shards": shards,
            "dependsOn": list(after),
            "estimatedSeconds": 2,
            "template": {"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}},
        }

    return {"tasks": [task("first", 2), task("second", 3, "first"), task("third", 1, "second")]}


KINDS = (_batch, _pipeline, _dag)


@dataclass(slots=True)
class Chaos:
    """One run."""

    cluster: Cluster
    console: Console
    draw: random.Random
    nodes: tuple[str, ...]
    """Real nodes."""
    jobs: int = 0
    completed: dict[str, frozenset[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def items(self, path: str) -> list[Object]:
        """Return the objects of a collection."""
        found: list[Object] = self.cluster.api.get(path)["items"]
        return found

    def submit(self) -> None:
        """Create the next job of the stream."""
        made = KINDS[self.jobs % len(KINDS)]
        self.jobs += 1
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceJob",
            "metadata": {"name": f"chaos-{self.jobs}"},
            "spec": {**made(), "backoffLimit": 0},
        }
        self.cluster.api.create(JOBS, body)

    # Breaking

    def kill(self, process: str) -> None:
        """Kill a process of ours and start it again a little later."""
        self.cluster.kill(process)
        time.sleep(self.draw.uniform(0, 2))
        self.cluster.restart(process)

    def break_node(self, number: int) -> None:
        """Kill a kubelet or freeze a whole node for a while."""
        node = self.draw.choice(self.nodes)
        seconds = self.draw.uniform(5, 20)
        if number % 2:
            self.console.print(f"  freezing {node} for {seconds:.0f} s")
            self.cluster.freeze(node)
            time.sleep(seconds)
            self.cluster.thaw(node)
        else:
            self.console.print(f"  killing the kubelet of {node} for {seconds:.0f} s")
            self.cluster.kill(f"{node}/kubelet")
            time.sleep(seconds)
            self.cluster.restart(f"{node}/kubelet")

    def delete_a_success(self) -> None:
        """Delete a pod that succeeded while nobody was looking."""
        name = "chaos-deleted"
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceJob",
            "metadata": {"name": name},
            "spec": {**_dag(), "tasks": _dag()["tasks"][:1], "backoffLimit": 0},
        }
        self.cluster.api.create(JOBS, body)
        selector = f"{PODS}?labelSelector={names.LABEL_JOB}%3D{name}"
        self._until(lambda: any(p["spec"].get("nodeName") for p in self.items(selector)))
        self.cluster.kill(OPERATOR)
        self._until(lambda: any(_phase(p) == "Succeeded" for p in self.items(selector)))
        gone = [p["metadata"]["name"] for p in self.items(selector) if _phase(p) == "Succeeded"]
        for pod in gone:
            self.cluster.api.call("DELETE", f"{PODS}/{pod}")
        self.console.print(f"  deleted {', '.join(gone)} while the operator is down")
        self.cluster.restart(OPERATOR)

    def _until(self, ready: Any, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                self.wrong.append("what should have happened did not within a minute")
                return
            time.sleep(0.1)

    # Watching

    def watch(self) -> None:
        """Note outcomes as they are recorded: none may ever be taken back."""
        while not self.done.wait(0.2):
            try:
                jobs = self.items(JOBS)
            except SandboxError:
                continue
            for job in jobs:
                name = job["metadata"]["name"]
                now = frozenset(_indexes(job))
                before = self.completed.get(name, frozenset())
                if before - now:
                    self.wrong.append(f"{name}: {sorted(before - now)} had completed and have not")
                self.completed[name] = now

    def run(self) -> None:
        """Break things at random moments while jobs keep coming."""
        watcher = threading.Thread(target=self.watch, daemon=True)
        watcher.start()
        for _ in range(6):
            self.submit()
        nodes = set(self.draw.sample(range(KILLS), NODE_FAILURES))
        for number in range(KILLS):
            time.sleep(self.draw.uniform(0.5, 6))
            process = self.draw.choice((OPERATOR, EXTENDER))
            self.console.print(f"{number + 1:2}. kill -9 {process}")
            self.kill(process)
            if number in nodes:
                self.break_node(sorted(nodes).index(number))
            if number % 3 == 0:
                self.submit()
        self.delete_a_success()
        self._settle()
        self.done.set()
        watcher.join()

    def _settle(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            jobs = self.items(JOBS)
            if all(state(job) in ("Succeeded", "Failed") for job in jobs):
                return
            time.sleep(1)

    # Judging

    def judge(self) -> Iterator[str]:
        """Yield what is wrong."""
        yield from self.wrong
        for job in self.items(JOBS):
            name = job["metadata"]["name"]
            if condition(job, "Succeeded") != "True":
                yield f"{name} is {state(job)}: {json.dumps(job.get('status', {}))[:400]}"
            else:
                yield from self._judge_pods(job)
        if any(record_attempts(self.cluster, "chaos-deleted").values()):
            yield "a subtask that had succeeded was run again"

    def _judge_pods(self, job: Mapping[str, Any]) -> Iterator[str]:
        """Every subtask has one succeeded pod of the attempt that counts, at most."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        attempts = record_attempts(self.cluster, name)
        seen: dict[str, int] = {}
        for pod in self.items(f"{PODS}?labelSelector={names.LABEL_JOB_UID}%3D{uid}"):
            labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
            current = attempts.get(labels[names.LABEL_GROUP], 1)
            if int(annotations[names.ANNOTATION_ATTEMPT]) == current and _phase(pod) == "Succeeded":
                subtask = labels[names.LABEL_SUBTASK]
                seen[subtask] = seen.get(subtask, 0) + 1
        for subtask, count in seen.items():
            if count > 1:
                yield f"{name}: {subtask} has {count} accepted completions"

    def leftovers(self) -> Iterator[str]:
        """Delete the jobs and yield what is left of them."""
        self.cluster.kubectl("delete", "inferencejobs", "--all", "--wait=false")
        self._until(lambda: not self.items(JOBS) and not self.items(PODS))
        for path in (JOBS, PODS, f"/api/v1/configmaps?labelSelector={names.LABEL_PLAN}"):
            for item in self.items(path):
                yield f"left behind: {path} {item['metadata']['name']}"


def record_attempts(cluster: Cluster, job: str) -> Mapping[str, int]:
    """Return the attempts on record of a job's groups."""
    found = cluster.api.get(f"/api/v1/namespaces/default/configmaps/{plans.name(job)}")
    return plans.decode(found["binaryData"][plans.KEY]).attempts


def _phase(pod: Mapping[str, Any]) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def _indexes(job: Mapping[str, Any]) -> Iterator[str]:
    for part in ((job.get("status") or {}).get("completed") or "").split(","):
        first, _, last = part.partition("-")
        if first:
            yield from (str(number) for number in range(int(first), int(last or first) + 1))


def main() -> int:
    """Run the chaos; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: another every time")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    console = Console()
    console.print(f"seed {seed}")
    rack = racks.read((ROOT / "examples" / "servers.yaml").read_text(encoding="utf-8"))
    spec = ClusterSpec(
        nodes=default_nodes(ROOT / "kind-config.yaml"),
        simulated=described(rack),
        profiles=rack.profiles,
        timing=TIMINGS["fast"],
        evenkeel=True,
    )
    cluster = Cluster.up("chaos", spec, shown(console))
    try:
        draw = random.Random(seed)  # noqa: S311 - to be repeatable
        chaos = Chaos(cluster, console, draw, tuple(node.name for node in spec.nodes))
        chaos.run()
        wrong = [*chaos.judge(), *chaos.leftovers()]
    finally:
        cluster.down()
    for line in wrong:
        console.print(line, style="red")
    console.print(f"{chaos.jobs + 1} jobs, {len(wrong)} things wrong", style="bold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
