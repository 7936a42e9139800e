"""One planning round as arrays: what the solvers of steps 3 and 4 see.

`evenkeel_core.costs` builds a `Problem` from a `TaskGraph` and servers; factorising,
partitioning, game, baselines and verifying take nothing else. Axes, by name, everywhere:
T subtasks, S servers, R resources, K server kinds, E edges.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[Any]

NOWHERE = -1
"""Stands for 'no server' in assignments and 'not pinned' in `Problem.pinned`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Subtasks, servers and what it costs to bring them together. Arrays are read-only.

    A problem is for one job; what other jobs and strangers take is in `available` and `load`.
    """

    subtasks: tuple[str, ...]
    servers: tuple[str, ...]
    resources: tuple[str, ...]
    cost: Floats
    """(T, S) seconds of each subtask on each server; inf where a hard check fails."""
    compute: Floats
    """(T, S) the part of `cost` that is compute: what is factorised. inf where cost is."""
    measured: NDArray[np.bool_]
    """(T, S) true where compute is believed (known device or calibrated), false where the
    factorisation may fill it; infeasible pairs are false."""
    demand: Ints
    """(T, K, R) what the subtask takes of a server of each kind."""
    kind: Ints
    """(S,) kind of each server, indexing K."""
    capacity: Ints
    """(S, R) what the job may use of each server when nothing of ours runs there."""
    work: Floats
    """(T,) w_t, server-independent, in reference seconds; > 0."""
    rate: Floats
    """(S,) R_i, reference work per second; > 0."""
    load: Floats
    """(S,) L_i, reference work already committed or observed there, not of this problem."""
    group: Ints
    """(T,) number of the coupled set; members run at the same time. Singles have their own."""
    pinned: Ints
    """(T,) the only server of the subtask, or NOWHERE."""
    edge: Ints
    """(E, 2) pairs of subtask numbers between which data moves (dependencies and couplings)."""
    edge_bytes: Floats
    """(E,) bytes moved along each."""
    dependency: NDArray[np.bool_]
    """(E,) true where the edge also orders: the second starts after the first has ended."""
    link_bandwidth: Floats
    """(S,) bytes/s; two servers talk at the smaller of both."""
    link_latency: Floats
    """(S,) seconds; two servers are the sum of both apart."""

    def __post_init__(self) -> None:
        """Make the arrays read-only: solvers share one problem."""
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
