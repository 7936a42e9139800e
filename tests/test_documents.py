"""What the documents show is what the code does."""

import doctest
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))


def with_examples() -> list[Path]:
    return [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]


def test_the_method_is_shown_by_examples() -> None:
    assert "method.md" in {page.name for page in with_examples()}


@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.name)
def test_every_number_of_a_page_is_printed_by_the_code(page: Path) -> None:
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted > 0
    assert found.failed == 0
