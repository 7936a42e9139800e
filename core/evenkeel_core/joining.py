"""A plan that goes on: subtasks join and leave it one by one, and the rest stays where it is.

What one subtask changes is the load of the server it takes or leaves. Only those can want to move
that sit where load rose, and those that would move to where it fell; each move asks again at two
servers, until nobody wants to. The end is an equilibrium of the changed problem, found without
asking everybody.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from evenkeel_core import game
from evenkeel_core.game import State
from evenkeel_core.problems import NOWHERE, Array, Ints, Problem, coupled

WORTH = 0.01
"""Gain in utility, as a share of it, for which a subtask changes its server. On 5,000 servers one
that left made two others move on average, and five with the tolerance of the planner itself."""


class Live:
    """The equilibrium of a problem whose subtasks come and go.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        Where the game starts; what is NOWHERE is claimed.
    balance, scale : float
        λ and ĉ of the utility; they stay what they are.
    tolerance : float
        ε: a gain in utility up to this fraction of it moves nothing. The smaller, the further the
        ripples of each change go.
    """

    def __init__(
        self,
        problem: Problem,
        assignment: Ints,
        *,
        balance: float,
        scale: float,
        tolerance: float = WORTH,
    ) -> None:
        self._tolerance = tolerance
        self._state = _settled(problem, assignment, balance, scale, tolerance)
        # What is held by rows is too large to copy whenever one is added.
        self._seconds = _Growing(problem.seconds)
        self._computing = _Growing(problem.computing)
        self._believed = _Growing(problem.believed)

    @property
    def problem(self) -> Problem:
        """The problem as it is now: the subtasks that are there."""
        return self._state.problem

    @property
    def assignment(self) -> Ints:
        """(T,) server of each subtask now; NOWHERE where no server may run it."""
        return self._state.assignment.copy()

    def join(self, more: Problem) -> tuple[str, ...]:
        """Let subtasks join, behind those that are there.

        Parameters
        ----------
        more : Problem
            The new subtasks alone, over the same servers of the same kinds. Edges and sets are
            between them; none joins the old ones.

        Returns
        -------
        tuple of str
            The subtasks that have another server than before, the new ones among them.

        Raises
        ------
        ValueError
            If `more` is not over the same servers and kinds.

        Notes
        -----
        O(T + A_new · K) and as much a move; with edges or coupled sets all units are asked.
        """
        problem = self.problem
        if more.servers != problem.servers or not np.array_equal(more.kind, problem.kind):
            raise ValueError("`more` must be over the same servers of the same kinds")
        count = len(problem.subtasks)
        joined = replace(
            problem,
            subtasks=problem.subtasks + more.subtasks,
            row=np.append(problem.row, more.row + len(problem.seconds)),
            need=np.append(problem.need, more.need + len(problem.needs)),
            needs=np.append(problem.needs, more.needs, axis=0),
            work=np.append(problem.work, more.work),
            group=np.append(problem.group, more.group + problem.group.max(initial=-1) + 1),
            pinned=np.append(problem.pinned, more.pinned),
            edge=np.append(problem.edge, more.edge + count, axis=0),
            edge_bytes=np.append(problem.edge_bytes, more.edge_bytes),
            dependency=np.append(problem.dependency, more.dependency),
            seconds=self._seconds.append(more.seconds),
            computing=self._computing.append(more.computing),
            believed=self._believed.append(more.believed),
        )
        new = np.full(len(more.subtasks), NOWHERE)
        return self._changed(joined, np.append(self._state.assignment, new), ())

    def leave(self, subtask: str) -> tuple[str, ...]:
        """Let a subtask leave, with its edges.

        Returns
        -------
        tuple of str
            The subtasks that have another server than before.

        Raises
        ------
        ValueError
            If `subtask` is not there.
        """
        problem = self.problem
        if subtask not in problem.subtasks:
            raise ValueError(f"`subtask` {subtask} is none of the {len(problem.subtasks)}")
        number = problem.subtasks.index(subtask)
        kept = (problem.edge != number).all(axis=1)
        left = replace(
            problem,
            subtasks=problem.subtasks[:number] + problem.subtasks[number + 1 :],
            row=np.delete(problem.row, number),
            need=np.delete(problem.need, number),
            work=np.delete(problem.work, number),
            group=np.delete(problem.group, number),
            pinned=np.delete(problem.pinned, number),
            edge=problem.edge[kept] - (problem.edge[kept] > number),
            edge_bytes=problem.edge_bytes[kept],
            dependency=problem.dependency[kept],
        )
        place = int(self._state.assignment[number])
        fell = () if place == NOWHERE else (place,)
        return self._changed(left, np.delete(self._state.assignment, number), fell)

    def _changed(self, problem: Problem, before: Ints, fell: Iterable[int]) -> tuple[str, ...]:
        """Settle after the problem has changed; return what moved."""
        state = self._state
        if problem.edge.size or coupled(problem)[0]:
            self._state = _settled(problem, before, state.balance, state.scale, self._tolerance)
        else:
            state.adopt(problem, game.seated(problem, before))
            pins = np.flatnonzero((before == NOWHERE) & (problem.pinned != NOWHERE))
            state.settle(state.assignment[pins].tolist(), fell, self._tolerance)
        moved = np.flatnonzero(self._state.assignment != before).tolist()
        return tuple(problem.subtasks[subtask] for subtask in moved)


def _settled(
    problem: Problem, assignment: Ints, balance: float, scale: float, tolerance: float
) -> State:
    found = game.equilibrium(problem, assignment, balance=balance, scale=scale, tolerance=tolerance)
    return State(problem, found.assignment, balance=balance, scale=scale)


class _Growing:
    """An array to which rows are appended; what was given out before stays as it was."""

    def __init__(self, array: Array) -> None:
        self._buffer = array
        self._used = len(array)

    def append(self, rows: Array) -> Array:
        """Return the array with further rows behind, in O(rows) but for now and then."""
        end = self._used + len(rows)
        if end > len(self._buffer):
            buffer = np.empty((end + end // 2, *self._buffer.shape[1:]), self._buffer.dtype)
            buffer[: self._used] = self._buffer[: self._used]
            self._buffer = buffer
        self._buffer[self._used : end] = rows
        self._used = end
        return self._buffer[:end]
