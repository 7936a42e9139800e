"""Builds the project's container images; needs no registry, no Docker and no root.

    python images/build.py [--output FOLDER]

Each component is one module of `evenkeel_sandbox.images`. The archives can be loaded with
`ctr -n k8s.io images import`, `docker load` or `podman load`, and the sandbox loads them by itself.
"""

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console

from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.images import archive, busybox, pause, simulator
from evenkeel_sandbox.progress import shown

COMPONENTS = (pause, busybox, simulator)


def main() -> int:
    """Build every component and put its archive into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("dist/images"), help="default %(default)s"
    )
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    console = Console(markup=False)
    for module in COMPONENTS:
        component = module.component()
        try:
            built = archive(component, shown(console))
        except SandboxError as error:
            console.print(f"evenkeel: {error}", soft_wrap=True)
            return 2
        name = component.tag.removeprefix("localhost/").replace("/", "-").replace(":", "-")
        shutil.copy(built, output / f"{name}.tar")
        console.print(f"{component.tag}  {output / f'{name}.tar'}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
