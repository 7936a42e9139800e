"""`localhost/evenkeel/simulator:dev`: the engine that takes a model's time and has no model."""

import shutil
from importlib import resources
from pathlib import Path

from evenkeel_sandbox.images import Component, Layer, key, python

TAG = "localhost/evenkeel/simulator:dev"
_PACKAGE = "evenkeel_node"


def component() -> Component:
    """Return the image."""
    config = {
        "Entrypoint": ["python3", "-m", f"{_PACKAGE}.simulating"],
        "Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHONUNBUFFERED=1"],
    }
    return Component(TAG, (python.layer(), _code()), config)


def _code() -> Layer:
    source = Path(str(resources.files(_PACKAGE)))
    files = sorted(path for path in source.rglob("*.py"))
    parts = [
        part
        for path in files
        for part in (str(path.relative_to(source)).encode(), path.read_bytes())
    ]

    def fill(root: Path) -> None:
        for path in files:
            target = root / python.MODULES / _PACKAGE / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    return Layer("simulator", key(*parts), fill)
