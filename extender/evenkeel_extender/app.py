"""The extender's HTTP surface: two verbs for kube-scheduler, the rest for people.

Everything runs on one event loop and no verb awaits between reading the snapshot and answering,
so no lock is needed and two verbs never see each other half done.
"""

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from evenkeel_core.servers import rate
from evenkeel_extender import metrics, protocol, scoring
from evenkeel_extender.protocol import Asked, FilterResult, HostPriority, MalformedError
from evenkeel_extender.state import State

MAX_BODY = 4 * 1024**2
"""Bytes of a body: a pod of 1.5 MiB, the most etcd takes, and 5,000 names of 253 letters."""
JSON = "application/json"
UNREADY = "the watches have not seen the whole cluster yet"

ARGS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["Pod", "NodeNames"],
                    "properties": {
                        "Pod": {
                            "type": "object",
                            "description": "a v1 Pod",
                            "required": ["metadata", "spec"],
                            "properties": {
                                "metadata": {
                                    "type": "object",
                                    "required": ["uid"],
                                    "properties": {"uid": {"type": "string"}},
                                },
                                "spec": {"type": "object"},
                            },
                        },
                        "NodeNames": {"type": "array", "items": {"type": "string"}},
                    },
                }
            }
        },
    }
}
"""kube-scheduler's ExtenderArgs, for the API's description; msgspec decodes them."""
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not what kube-scheduler sends."},
    413: {"description": "The body is too large."},
    503: {"description": "The watches have not seen the whole cluster yet."},
}


def create(state: State) -> FastAPI:
    """Return the application that answers from a state."""
    app = FastAPI(
        title="Evenkeel scheduler extender",
        description="Scores nodes by the utility of the game the planner plays.",
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
    def verb(name: str, answer: Callable[[State, Asked], Any]) -> None:
        async def route(request: Request) -> Response:
            body = await _body(request)
            began = time.perf_counter()
            if not state.ready:
                raise HTTPException(503, UNREADY)
            try:
                asked = protocol.decode(body)
            except MalformedError as error:
                metrics.SECONDS.labels(name, "malformed").observe(time.perf_counter() - began)
                raise HTTPException(400, str(error)) from None
            found = protocol.encode(answer(state, asked))
            metrics.SECONDS.labels(name, "ok").observe(time.perf_counter() - began)
            metrics.NODES.labels(name).observe(len(asked.nodes))
            return Response(found, media_type=JSON)

        app.post(f"/{name}", name=name, openapi_extra=ARGS, responses=ERRORS)(route)

    verb("filter", answer_filter)
    verb("prioritize", answer_prioritize)


def answer_filter(state: State, asked: Asked) -> FilterResult:
    """Answer filter; where one name is left, prioritize is never asked, so assume now."""
    snapshot, pod = state.snapshot, asked.pod
    state.assumptions.drop(pod.uid)
    if snapshot.planned(pod) is None:
        metrics.UNKNOWN.inc()
    others = state.assumptions.others(pod.uid)
    refused = scoring.refusals(snapshot, pod, asked.nodes, others)
    for reason in refused.values():
        metrics.REFUSED.labels(str(reason)).inc()
    result = protocol.filter_result(asked.nodes, refused)
    if len(result.NodeNames) == 1:
        _advise(state, asked, result.NodeNames[0])
    return result


def answer_prioritize(state: State, asked: Asked) -> list[HostPriority]:
    """Answer prioritize, and assume that the best is taken."""
    others = list(state.assumptions.others(asked.pod.uid))
    result = scoring.prioritized(state.snapshot, asked.pod, asked.nodes, others)
    top = scoring.best(result)
    if top is not None:
        _advise(state, asked, top)
    return result


def _advise(state: State, asked: Asked, server: str) -> None:
    """Assume that a pod goes to the server that was named."""
    state.assumptions.assume(asked.pod, server)
    planned = state.snapshot.planned(asked.pod)
    if planned is not None:
        as_planned = planned.assignment.server == server
        metrics.ADVISED.labels("planned" if as_planned else "elsewhere").inc()


def _people(app: FastAPI, state: State) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: {"description": "No such pod of a job."}}

    @app.get("/explain/{namespace}/{pod}", responses=missing)
    async def explain(namespace: str, pod: str) -> dict[str, Any]:
        """Return every term of the utility of one pod's subtask on every server."""
        snapshot = state.snapshot
        found = snapshot.keys.get(f"{namespace}/{pod}")
        if found is None:
            raise HTTPException(404, f"there is no pod {namespace}/{pod} of a job")
        others = list(state.assumptions.others(found.uid))
        return {
            "pod": found.key,
            "subtask": found.subtask,
            "bound": found.node or None,
            "planned": found.planned or None,
            "servers": scoring.explained(snapshot, found, others),
        }

    @app.get("/servers")
    async def servers() -> list[dict[str, Any]]:
        """Return what the extender knows of each server."""
        snapshot = state.snapshot
        return [
            {
                "name": name,
                "rate": rate(server),
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

    @app.get("/readyz", responses={503: ERRORS[503]})
    async def readyz() -> dict[str, Any]:
        """Tell whether the verbs answer from a whole cluster."""
        if not state.ready:
            raise HTTPException(503, UNREADY)
        return {
            "status": "ok",
            "servers": len(state.snapshot.servers),
            "silence": state.silence(),
        }

    @app.get("/metrics")
    async def exposition() -> Response:
        """Return the metrics in Prometheus' text format."""
        metrics.collect(state)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
