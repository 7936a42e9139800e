"""``python -m evenkeel_operator``: reconciles InferenceJobs while it leads."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import start_http_server

from evenkeel_kube import names
from evenkeel_kube.client import ApiError, Client
from evenkeel_kube.configuration import Configuration, ConfigurationError, load
from evenkeel_operator import metrics
from evenkeel_operator.leading import Election, LeadershipLostError
from evenkeel_operator.running import Operator, StoppedError
from evenkeel_operator.settings import Settings

log = logging.getLogger("evenkeel_operator")

FAILED = 1
USAGE = 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m evenkeel_operator",
        description="Reconciles InferenceJobs into pods. One of several acts, elected by a Lease.",
    )
    default = Settings()
    found.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, or in-cluster")
    found.add_argument("--lease-namespace", default=default.namespace)
    found.add_argument("--mode", choices=("shortlist", "open", "pin"), default=default.mode)
    found.add_argument("--scheduler-name", default=names.SCHEDULER)
    found.add_argument("--simulator-image", default=default.simulator_image)
    found.add_argument("--metrics-port", type=int, default=0, help="0 serves no metrics")
    found.add_argument("--metrics-address", default="0.0.0.0", help="default: all")
    found.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING"))
    return found


async def lead(configuration: Configuration, settings: Settings) -> None:
    """Wait for the Lease, then work until it is lost or a signal comes."""
    async with Client(configuration) as api:
        election = Election(api, settings.namespace, settings.lease, settings.identity)
        working = asyncio.create_task(_work(api, election, settings, configuration))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, working.cancel)
        try:
            await working
        except* (asyncio.CancelledError, StoppedError):
            log.info("stopping")
        finally:
            await election.resign()


async def _work(
    api: Client, election: Election, settings: Settings, configuration: Configuration
) -> None:
    await election.acquire()
    metrics.LEADER.set(1)
    lost = election.keep_apart(configuration)

    async def led() -> None:
        await lost

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(led())
        tasks.create_task(Operator(api, settings, confirm=election.confirm).run())


def main(arguments: list[str] | None = None) -> int:
    """Run the operator."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # kopf tells of every event; what the loop makes of them is told by the loop.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
    if options.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(options.kubeconfig)  # where kopf looks for credentials
    settings = Settings(
        mode=options.mode,
        scheduler=options.scheduler_name,
        simulator_image=options.simulator_image,
        namespace=options.lease_namespace,
        identity=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
    )
    try:
        configuration = load(options.kubeconfig)
        if options.metrics_port:
            start_http_server(options.metrics_port, options.metrics_address)
        asyncio.run(lead(configuration, settings))
    except ConfigurationError as error:
        sys.stderr.write(f"evenkeel operator: {error}\n")
        return USAGE
    except OSError as error:
        where = f"{options.metrics_address}:{options.metrics_port}"
        sys.stderr.write(f"evenkeel operator: can't serve metrics on {where}: {error}\n")
        return USAGE
    except (LeadershipLostError, ApiError) as error:
        log.error("%s", error)
        return FAILED
    except BaseExceptionGroup as group:
        expected, defects = group.split((LeadershipLostError, ApiError))
        for leaf in _leaves(expected):
            log.error("%s", leaf)
        if defects is not None:
            log.error("a defect of the operator", exc_info=defects)
        return FAILED
    return 0


def _leaves(group: BaseExceptionGroup | None) -> Iterator[BaseException]:
    for error in group.exceptions if group is not None else ():
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
