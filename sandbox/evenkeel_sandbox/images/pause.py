"""`localhost/pause:1`: holds a pod's namespaces and does nothing else."""

import subprocess
from pathlib import Path

from evenkeel_sandbox.images import Component, Layer, key

_SOURCE = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int sig) { _exit(0); }
static void bury(int sig) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGINT, leave);
  signal(SIGTERM, leave);
  signal(SIGCHLD, bury);
  for (;;) pause();
}
"""


def _fill(root: Path) -> None:
    subprocess.run(
        ["gcc", "-Os", "-static", "-s", "-x", "c", "-o", str(root / "pause"), "-"],
        input=_SOURCE.encode(),
        check=True,
    )


def component() -> Component:
    """Return the image."""
    layer = Layer("pause", key(_SOURCE.encode()), _fill)
    return Component("localhost/pause:1", (layer,), {"Entrypoint": ["/pause"]})
