"""What can go wrong at the command line: one sentence and an exit status, never a traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

OK = 0
NOT_PLACED = 1
"""There is an answer, and it is no: the job can't be placed, or it has failed."""
TROUBLE = 2
"""There is no answer: the command line or a file breaks a rule, or the cluster is out of reach."""

EXIT_STATUSES = (
    "Exit status: 0 done; 1 the job can't be placed, or has failed; 2 there is no answer, because "
    "the command line or a file breaks a rule, or the cluster can't be reached."
)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Failure(Exception):
    """Something the user can act on: says what, where, why and what to do."""

    def __init__(self, message: str, status: int = TROUBLE) -> None:
        super().__init__(message)
        self.status = status


def reported(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn a `Failure` into one line on stderr and its exit status."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except Failure as failure:
            sys.stderr.write(f"evenkeel: {failure}\n")
            sys.exit(failure.status)
        except BrokenPipeError:
            # Whoever read our output has gone: `evenkeel plan … | head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(TROUBLE)

    return run
