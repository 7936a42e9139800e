"""``python -m evenkeel_extender``: answers kube-scheduler from watches of the cluster."""

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from evenkeel_extender.app import create
from evenkeel_extender.state import State, Watches
from evenkeel_kube.client import Client
from evenkeel_kube.configuration import Configuration, ConfigurationError, load

KEEP_ALIVE = 120
"""Seconds: longer than the 90 after which Go's client closes idle connections."""
USAGE = 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m evenkeel_extender",
        description="Scheduler extender: filters and scores nodes by the game's utility.",
    )
    found.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, or in-cluster")
    found.add_argument("--host", default="127.0.0.1", help="default: loopback, as a sidecar")
    found.add_argument("--port", type=int, default=8091)
    found.add_argument("--log-level", default="warning", choices=("debug", "info", "warning"))
    return found


def application(configuration: Configuration) -> FastAPI:
    """Return the application with its watches, which live as long as it does."""
    state = State()

    @asynccontextmanager
    async def watching(_: FastAPI) -> AsyncIterator[None]:
        async with Client(configuration) as api:
            watches = asyncio.create_task(Watches(api, state).run())
            yield
            watches.cancel()

    return create(state, watching)


def main(arguments: list[str] | None = None) -> int:
    """Run the extender."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        configuration = load(options.kubeconfig)
    except ConfigurationError as error:
        sys.stderr.write(f"evenkeel extender: {error}\n")
        return USAGE
    uvicorn.run(
        application(configuration),
        host=options.host,
        port=options.port,
        http="httptools",
        loop="uvloop",
        timeout_keep_alive=KEEP_ALIVE,
        log_level=options.log_level,
        access_log=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
