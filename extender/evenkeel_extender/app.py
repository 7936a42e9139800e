"""The extender's HTTP surface: two verbs for kube-scheduler, the rest for people.

Everything runs on one event loop and no verb awaits between reading the snapshot and answering,
so no lock is needed and two verbs never see each other half done.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from evenkeel_extender import metrics, protocol, scoring
from evenkeel_extender.protocol import Args, MalformedError
from evenkeel_extender.scoring import Asked
from evenkeel_extender.state import State

MAX_BODY = 4 * 1024**2
"""Bytes of a body: a pod of 1.5 MiB, the API server's limit, and 5,000 names of 253 letters."""
JSON = "application/json"
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def create(state: State, lifespan: Lifespan = _nothing) -> FastAPI:
    """Return the application that answers from a state."""
    app = FastAPI(
        title="Evenkeel scheduler extender",
        description="Scores nodes by the utility of the game the planner plays.",
        lifespan=lifespan,
        docs_url=None,  # the interactive page would load scripts from the internet
        redoc_url=None,
    )
    _verbs(app, state)
    _people(app, state)
    return app


async def _body(request: Request) -> bytes:
    """Return the body, refused as soon as it is larger than any that is real."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    return bytes(found)


def _verbs(app: FastAPI, state: State) -> None:
    def verb(
        name: str, answer: Callable[[State, Asked, Args], Any]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def route(request: Request) -> Response:
            body = await _body(request)
            began = time.perf_counter()
            if not state.ready:
                metrics.SECONDS.labels(name, "unready").observe(0)
                raise HTTPException(503, "the watches have not seen the whole cluster yet")
            try:
                args = protocol.decode(body)
                pod = scoring.asked(state.snapshot, args.Pod)
                found = protocol.encode(answer(state, pod, args))
            except (MalformedError, ValueError, TypeError, AttributeError) as error:
                metrics.SECONDS.labels(name, "malformed").observe(time.perf_counter() - began)
                raise HTTPException(400, f"{error}") from None
            metrics.SECONDS.labels(name, "ok").observe(time.perf_counter() - began)
            metrics.NODES.labels(name).observe(len(args.NodeNames or ()))
            return Response(found, media_type=JSON)

        return route

    app.post("/filter")(verb("filter", answer_filter))
    app.post("/prioritize")(verb("prioritize", answer_prioritize))


def answer_filter(state: State, pod: Asked, args: Args) -> protocol.FilterResult:
    """Answer filter; where one name is left, prioritize is never asked, so assume now."""
    state.assumptions.drop(pod.uid)
    if pod.planned is None:
        metrics.UNKNOWN.inc()
    names = args.NodeNames or []
    result = scoring.filtered(state.snapshot, pod, names, state.assumptions.others(pod.uid))
    for refused in (result.FailedNodes, result.FailedAndUnresolvableNodes):
        for message in refused.values():
            metrics.REFUSED.labels(message.split(": ")[1]).inc()
    if len(result.NodeNames) == 1:
        state.assumptions.assume(pod.uid, result.NodeNames[0], pod.demand, pod.work)
    return result


def answer_prioritize(state: State, pod: Asked, args: Args) -> list[protocol.HostPriority]:
    """Answer prioritize, and assume that the best is taken."""
    names = args.NodeNames or []
    result = scoring.prioritized(state.snapshot, pod, names, state.assumptions.others(pod.uid))
    top = scoring.best(result)
    if top is not None:
        state.assumptions.assume(pod.uid, top, pod.demand, pod.work)
    return result


def _people(app: FastAPI, state: State) -> None:
    @app.get("/explain/{namespace}/{pod}")
    async def explain(namespace: str, pod: str) -> dict[str, Any]:
        """Return every term of the utility of one pod's subtask on every server."""
        found = state.snapshot.pods.get(f"{namespace}/{pod}")
        if found is None:
            raise HTTPException(404, f"there is no pod {namespace}/{pod} of a job")
        whole = {
            "metadata": {
                "uid": found.metadata.uid,
                "labels": found.metadata.labels,
                "annotations": found.metadata.annotations,
            },
            "spec": found.spec,
        }
        asked = scoring.asked(state.snapshot, whole)
        others = list(state.assumptions.others(asked.uid))
        return {
            "pod": f"{namespace}/{pod}",
            "subtask": asked.subtask,
            "bound": found.spec.get("nodeName"),
            "planned": asked.planned.assignment.server if asked.planned else None,
            "servers": scoring.explained(state.snapshot, asked, others),
        }

    @app.get("/servers")
    async def servers() -> list[dict[str, Any]]:
        """Return what the extender knows of each server."""
        snapshot = state.snapshot
        return [
            {
                "name": name,
                "rate": snapshot.rates[name],
                "load": snapshot.loads[name],
                "free": snapshot.free[name],
                "ready": server.ready,
                "schedulable": server.schedulable,
            }
            for name, server in sorted(snapshot.servers.items())
        ]

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, Any]:
        """Tell whether the verbs answer from a whole cluster."""
        if not state.ready:
            raise HTTPException(503, "the watches have not seen the whole cluster yet")
        return {"status": "ok", "servers": len(state.snapshot.servers), "age": state.age()}

    @app.get("/metrics")
    async def exposition() -> Response:
        """Return the metrics in Prometheus' text format."""
        metrics.AGE.set(state.age() if state.built else 0)
        metrics.ASSUMED.set(len(state.assumptions.held()))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
