"""``python -m evenkeel_extender``: answers kube-scheduler from watches of the cluster."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from evenkeel_extender.app import create
from evenkeel_extender.state import State, Watches
from evenkeel_kube.client import Client
from evenkeel_kube.configuration import Configuration, ConfigurationError, load

KEEP_ALIVE = 120
"""Seconds: longer than the 90 after which Go's client closes idle connections."""
GRACE = 5
"""Seconds a request that is being answered may take when the process is told to stop."""
FAILED = 1
USAGE = 2

log = logging.getLogger("evenkeel_extender")


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


class Server(uvicorn.Server):
    """uvicorn that leaves the process's signals alone: raised anew, they would kill it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Answer what was asked and end."""
        self.should_exit = True


async def serve(configuration: Configuration, options: argparse.Namespace) -> int:
    """Answer until a signal comes or the watches break for good; return the exit status."""
    state = State()
    server = Server(
        uvicorn.Config(
            create(state),
            host=options.host,
            port=options.port,
            http="httptools",
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
            log_level=options.log_level,
            access_log=False,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    async with Client(configuration) as api:
        watching = asyncio.create_task(Watches(api, state).run())
        # Without watches the answers would grow old for ever: better to be started anew.
        watching.add_done_callback(lambda _: server.stop())
        await server.serve()
        if watching.done():
            log.error("the watches broke", exc_info=watching.exception())
            return FAILED
        watching.cancel()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the extender."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=options.log_level.upper()
    )
    try:
        configuration = load(options.kubeconfig)
    except ConfigurationError as error:
        sys.stderr.write(f"evenkeel extender: {error}\n")
        return USAGE
    return uvloop.run(serve(configuration, options))


if __name__ == "__main__":
    sys.exit(main())
