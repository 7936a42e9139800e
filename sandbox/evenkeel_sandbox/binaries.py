"""The programs of a cluster at pinned versions: found where they are, else built from source.

Each folder below ``modules/`` is a Go module whose committed go.mod and go.sum pin every line of
the source. What is built lands in the cache under a key of all that went into it, so a second
sandbox starts at once and a change of a pin builds anew.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evenkeel_sandbox.failures import BuildError, SandboxError
from evenkeel_sandbox.places import cache, locked
from evenkeel_sandbox.progress import Progress, shown

MODULES = Path(__file__).parent / "modules"
KUBERNETES = "v1.36.3"
ETCD = "3.6.16"
KWOK = "0.8.0"


def _kubernetes_flags() -> str:
    """Stamp the version in, as upstream's own build does: the API server reports it."""
    _, minor, _ = KUBERNETES.split(".")
    component = "k8s.io/component-base/version"
    return (
        f"-s -w -X {component}.gitVersion={KUBERNETES} -X {component}.gitMajor=1"
        f" -X {component}.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
    )


@dataclass(frozen=True, slots=True)
class Module:
    """A folder below ``modules/`` and the commands built from it."""

    folder: str
    version: str
    ldflags: str
    commands: Mapping[str, str]
    """Package to build, by name of the binary."""
    minutes: int
    """What a cold build takes on two cores."""


_COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
ALL = (
    Module("etcd", ETCD, "-s -w", {"etcd": "."}, 1),
    Module(
        "kubernetes",
        KUBERNETES,
        _kubernetes_flags(),
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in _COMMANDS},
        6,
    ),
    Module(
        "kwok",
        KWOK,
        "-s -w",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        2,
    ),
)


def ensure(progress: Progress) -> dict[str, Path]:
    """Return the path of every program by name, building what is neither found nor cached.

    Raises
    ------
    BuildError
        If something has to be built and Go is missing or the build fails.
    """
    paths: dict[str, Path] = {}
    for module in ALL:
        given = {name: _given(name, module.version) for name in module.commands}
        missing = [name for name, path in given.items() if path is None]
        built = _built(module, progress) if missing else {}
        paths |= {name: path or built[name] for name, path in given.items()}
    return paths


def _given(name: str, version: str) -> Path | None:
    """Return the program from KUBEBUILDER_ASSETS or PATH if it has exactly our version."""
    folders = os.pathsep.join([os.environ.get("KUBEBUILDER_ASSETS", ""), os.environ["PATH"]])
    found = shutil.which(name, path=folders)
    if found is None:
        return None
    flags = ["version", "--client"] if name == "kubectl" else ["--version"]
    said = subprocess.run([found, *flags], capture_output=True, text=True, check=False)
    words = said.stdout.replace("v", " v").split()
    return Path(found) if version in words or f"v{version}" in words else None


def _built(module: Module, progress: Progress) -> dict[str, Path]:
    store = cache() / "bin"
    key = _key(module)
    with locked(store / f"{module.folder}.lock"):
        folder = _cached(store, key, module)
        if folder is None:
            folder = _build(module, store / f"{key}-{_go_version(module)}", progress)
    return {name: folder / name for name in module.commands}


def _key(module: Module) -> str:
    """Return a name that changes with everything of ours that goes into the build."""
    digest = hashlib.sha256(module.ldflags.encode())
    for path in sorted((MODULES / module.folder).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{module.folder}-{module.version}-{digest.hexdigest()[:12]}"


def _cached(store: Path, key: str, module: Module) -> Path | None:
    """Return the folder built by this machine's Go, or by any if there is none now."""
    version = "*" if shutil.which("go") is None else _go_version(module)
    folders = sorted(store.glob(f"{key}-{version}"))
    whole = [path for path in folders if all((path / name).exists() for name in module.commands)]
    return whole[-1] if whole else None


def _go_version(module: Module) -> str:
    """Return the version of Go that would build the module; asked there, as go.mod may pin it."""
    if shutil.which("go") is None:
        raise BuildError(
            f"{', '.join(module.commands)} {module.version} must be built and the command `go` is"
            " missing: install Go (https://go.dev/dl, or the package golang-go if it is new"
            " enough), or point KUBEBUILDER_ASSETS at a folder that holds these versions"
        )
    return _go(module, "env", "GOVERSION").strip()


def _go(module: Module, *words: str) -> str:
    done = subprocess.run(
        ["go", *words],
        cwd=MODULES / module.folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"`go {words[0]}` in modules/{module.folder} failed:\n{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Build without the host's C library, in module mode, whatever the caller's settings."""
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _build(module: Module, target: Path, progress: Progress) -> Path:
    """Build all commands of the module and put them in place at once."""
    names = ", ".join(module.commands)
    with progress.step(f"Building {names} {module.version} (once, ~{module.minutes} min)") as step:
        packages = list(module.commands.values())
        total = len(_go(module, "list", "-deps", *packages).splitlines())
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
            done = Path(scratch) / "bin"
            words = ["build", "-v", "-trimpath", "-ldflags", module.ldflags, "-o", f"{done}/"]
            for count, _ in enumerate(_compiled(module, [*words, *packages]), start=1):
                step.advance(count / total)
            shutil.rmtree(target, ignore_errors=True)
            done.rename(target)
    return target


def _compiled(module: Module, words: list[str]) -> Iterator[str]:
    """Run ``go build -v`` and yield each package as it is compiled."""
    tail: list[str] = []
    with subprocess.Popen(
        ["go", *words],
        cwd=MODULES / module.folder,
        env=_environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr or ():
            tail = [*tail[-20:], line]
            yield line
    if process.returncode:
        raise BuildError(f"building modules/{module.folder} failed:\n{''.join(tail)}")


def main() -> int:
    """Build what is missing, so that nothing later waits for it unawares."""
    console = Console(stderr=True, markup=False)
    try:
        ensure(shown(console))
    except SandboxError as error:
        console.print(f"evenkeel: {error}", highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
