"""YAML is read within bounds, and what is wrong is said in one line."""

from itertools import pairwise

import pytest

from evenkeel_kube import documents

LEVELS = "abcdefghij"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n" for before, after in pairwise(LEVELS)
)


def test_several_documents_come_in_order_without_the_empty_ones() -> None:
    assert documents.load("a: 1\n---\n---\nb: &x [1]\nc: *x\n") == [{"a": 1}, {"b": [1], "c": [1]}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases"),
        ("a: &a {b: *a}", "aliases"),
        ("- " * 100 + "x", "nested deeper than 64"),
        ("[" * 100_000, "nested deeper than 64"),
        ("a: [1", "line 2"),
        ("a: b: c", "line 1"),
        ("a\0b", "no YAML"),
        ("? [1]\n: 2", "no YAML"),
        ("a: 2024-13-01", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(documents.InvalidYaml, match=said) as refused:
        documents.load(text)
    assert "\n" not in str(refused.value)
