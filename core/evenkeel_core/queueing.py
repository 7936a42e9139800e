"""When subtasks that wait for nothing but room start: each server works off a queue of its own.

Most jobs are so: shards that do not know each other. Servers then do not know each other either,
and one after the other is simulated; many have room for all of theirs at once.
"""

import heapq
from collections.abc import Sequence

import numpy as np

from evenkeel_core.problems import Floats, Ints, Mask, Problem, demands


def starts(problem: Problem, assignment: Ints, duration: Floats) -> Floats:
    """Return when each subtask starts if all are ready at once, seconds, shape (T,).

    Parameters
    ----------
    problem : Problem
        Without dependencies and coupled sets.
    assignment : ndarray, shape (T,)
        A server for every subtask, one that holds it when empty.
    duration : ndarray, shape (T,)
        Seconds of each.

    Returns
    -------
    ndarray, shape (T,)
        Whenever room falls free the longest that fits starts; ties go to the lower number.

    Notes
    -----
    Subtasks with the same demand fit or wait together, so only the first of each demand is looked
    at: O(T (log T + demands on a server)).
    """
    start = np.zeros(assignment.size)
    taken = demands(problem, assignment)
    total = np.zeros(problem.capacity.shape, dtype=np.int64)
    np.add.at(total, assignment, taken)
    crowded: Mask = np.any(total > problem.capacity, axis=1)
    queued = np.flatnonzero(crowded[assignment])
    queued = queued[np.lexsort((queued, -duration[queued], assignment[queued]))]
    cuts = np.flatnonzero(np.diff(assignment[queued])) + 1
    for queue in np.split(queued, cuts):
        if queue.size:
            room = problem.capacity[assignment[queue[0]]].tolist()
            start[queue] = _work_off(
                room, problem.need[queue].tolist(), taken[queue].tolist(), duration[queue].tolist()
            )
    return start


def _work_off(
    free: list[int],
    need: Sequence[int],
    taken: Sequence[Sequence[int]],
    duration: Sequence[float],
) -> list[float]:
    """Return the starts on one server, in the order of its queue; `free` is used up."""
    start = [0.0] * len(need)
    queues: dict[int, list[int]] = {}
    for place in range(len(need) - 1, -1, -1):
        queues.setdefault(need[place], []).append(place)
    ends: list[tuple[float, int]] = []
    now = 0.0
    while queues:
        # What does not fit at this moment will not fit after others have started.
        heads = [(queue[-1], queue) for queue in queues.values()]
        heapq.heapify(heads)
        while heads:
            place, queue = heapq.heappop(heads)
            amounts = taken[place]
            if any(map(int.__gt__, amounts, free)):
                continue
            for resource, amount in enumerate(amounts):
                free[resource] -= amount
            start[place] = now
            heapq.heappush(ends, (now + duration[place], place))
            queue.pop()
            if queue:
                heapq.heappush(heads, (queue[-1], queue))
            else:
                del queues[need[place]]
        now = ends[0][0]
        while ends and ends[0][0] == now:
            for resource, amount in enumerate(taken[heapq.heappop(ends)[1]]):
                free[resource] += amount
    return start
