"""Guards of the repository's shape: what broke others' layouts must fail here first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = ("core", "operator", "extender", "node", "cli", "sandbox")


def test_no_source_root_is_a_package() -> None:
    roots = [ROOT / root / "__init__.py" for root in SOURCE_ROOTS]
    assert [path for path in roots if path.exists()] == []
    assert not (ROOT / "operator.py").exists()


def test_standard_library_wins_from_the_repository_root() -> None:
    program = "import collections, operator; print(operator.itemgetter(0)('ok'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("o\n", 0), done.stderr


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_no_module_shadows_the_standard_library(root: str) -> None:
    names = {path.stem for path in (ROOT / root).rglob("*.py")} - {"__init__", "__main__"}
    assert names & sys.stdlib_module_names == set()


def test_no_test_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_no_module_is_named_after_nothing(root: str) -> None:
    meaningless = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
    assert {path.stem for path in (ROOT / root).rglob("*.py")} & meaningless == set()


@pytest.mark.parametrize("root", [*SOURCE_ROOTS, "images"])
def test_no_console_takes_brackets_of_others_for_markup(root: str) -> None:
    made = [
        (path.name, call)
        for path in (ROOT / root).rglob("*.py")
        for call in re.findall(r"\bConsole\(.*\)", path.read_text(encoding="utf-8"))
    ]
    assert [found for found in made if "markup=False" not in found[1]] == []
