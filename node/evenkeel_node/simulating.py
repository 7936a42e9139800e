"""The `simulator` engine on a real node: works through its requests at the planned rate.

Started as a subtask's only container with what the plan says in its environment. It is an
engine without a model: it takes the time a model would take and answers nothing, so that a
rack can be tried before it has weights. Standard library only: the image stays small.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS = "EVENKEEL_RUN_SECONDS"
"""How long the whole range takes, in real seconds."""
REQUESTS = "EVENKEEL_REQUESTS"
"""First request and one past the last, as ``FIRST-END``."""
TERMINATION_LOG = Path("/dev/termination-log")
REPORT_EVERY = 1.0
"""Seconds between two progress lines: what a person watching a log finds neither dead nor loud."""
TERMINATED = 128 + signal.SIGTERM
USAGE = 2


@dataclass(frozen=True, slots=True)
class Shard:
    """What one pod has to work through."""

    seconds: float
    first: int
    end: int

    @property
    def total(self) -> int:
        """Requests in the shard."""
        return self.end - self.first

    def completed(self, elapsed: float) -> int:
        """Return how many requests are done after so many seconds."""
        if elapsed >= self.seconds:
            return self.total
        return int(self.total * elapsed / self.seconds)


def read(environment: Mapping[str, str]) -> Shard:
    """Return the shard the environment describes.

    Raises
    ------
    ValueError
        If a variable is missing or not what it should be; the message names it.
    """
    try:
        seconds = float(environment.get(SECONDS, ""))
    except ValueError:
        raise ValueError(f"{SECONDS} must be a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{SECONDS} must be finite and not negative")
    first, _, end = environment.get(REQUESTS, "0-1").partition("-")
    if not (first.isdigit() and end.isdigit() and int(first) <= int(end)):
        raise ValueError(f"{REQUESTS} must be FIRST-END with FIRST <= END")
    return Shard(seconds, int(first), int(end))


def work(
    shard: Shard,
    stopped: threading.Event,
    report: Callable[[Mapping[str, object]], None],
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Work through the shard, reporting as it goes; False when it was stopped before the end."""
    start = clock()
    while (elapsed := clock() - start) < shard.seconds:
        report({"completed": shard.completed(elapsed), "total": shard.total})
        if stopped.wait(min(REPORT_EVERY, shard.seconds - elapsed)):
            return False
    report({"completed": shard.total, "total": shard.total})
    return True


def _print(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _leave(message: str, status: int) -> int:
    """Leave the last word where `kubectl describe` shows it; without a kubelet there is nobody."""
    if TERMINATION_LOG.exists():
        TERMINATION_LOG.write_text(message)
    return status


def main() -> int:
    """Run the shard of this pod."""
    stopped = threading.Event()
    # As PID 1 of the container nobody else has a handler for us: without one, SIGTERM is ignored
    # and the pod lingers for its whole grace period.
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        shard = read(os.environ)
    except ValueError as error:
        sys.stderr.write(f"evenkeel simulator: {error}\n")
        return _leave(str(error), USAGE)
    if not work(shard, stopped, _print):
        return _leave("stopped before the end", TERMINATED)
    return _leave(f"{shard.total} requests in {shard.seconds:.1f} s", 0)


if __name__ == "__main__":
    sys.exit(main())
