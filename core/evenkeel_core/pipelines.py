"""Cutting a model into contiguous layer ranges over unlike servers.

What a server takes depends on how many layers it holds and on whether the stage is the first of
its pipeline (which holds the embedding), the last (the output head), both or neither. Where the
stages of a decode step take turns (llama.cpp's RPC, a star around the head) the time of a
pipeline is the sum over its stages; where they overlap, the slowest counts. Neither depends on
the order of the stages between the two ends, so which servers, and how many layers each, is a
knapsack over layers. A dynamic programme solves it exactly, over (min, +) or (min, max). Weak
servers drop out by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from evenkeel_core.jobs import MAX_STAGES, Overlap
from evenkeel_core.problems import Floats

Join = Callable[..., Floats]
JOIN: dict[Overlap, Join] = {Overlap.SUM: np.add, Overlap.SLOWEST: np.maximum}
"""What a further stage makes of the seconds of those before it."""


class Role(IntEnum):
    """Which ends of the model a stage holds, as bits: 1 for the first layer, 2 for the last."""

    INNER = 0
    FIRST = 1
    LAST = 2
    WHOLE = 3


_STEPS = (
    (Role.INNER, slice(0, 4), slice(0, 4)),
    (Role.FIRST, slice(0, 4, 2), slice(1, 4, 2)),
    (Role.LAST, slice(0, 2), slice(2, 4)),
)
"""By role: from which ends being held to which, as slices of the axis of ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What a server offers to a pipeline."""

    server: str
    seconds: Floats
    """Of a stage, by `Role` and number of layers: shape (4, most + 1), inf where it does not fit.
    The column of no layers is not read."""

    def fits(self, role: Role) -> int:
        """Return how many layers it holds at most in a role."""
        held = np.flatnonzero(np.isfinite(self.seconds[role, 1:]))
        return int(held[-1]) + 1 if held.size else 0

    @property
    def pace(self) -> float:
        """Seconds a layer takes here at best: how servers are ordered."""
        counts = np.arange(1, self.seconds.shape[1])
        return float((self.seconds[:, 1:] / counts).min(initial=np.inf))


def linear(
    server: str,
    layers: int | tuple[int, int, int, int],
    layer_seconds: float,
    stage_seconds: float | tuple[float, float, float, float] = 0.0,
) -> Candidate:
    """Return a candidate that takes as long for each layer, and something for being a stage.

    Parameters
    ----------
    server : str
    layers : int or tuple of 4 int
        How many fit, in every role or by `Role`.
    layer_seconds : float
    stage_seconds : float or tuple of 4 float
        In every role or by `Role`.
    """
    most = np.broadcast_to(np.asarray(layers), 4)[:, None]
    fixed = np.broadcast_to(np.asarray(stage_seconds, dtype=float), 4)[:, None]
    counts = np.arange(max(0, int(most.max())) + 1)
    held = (counts >= 1) & (counts <= most)
    return Candidate(server, np.where(held, fixed + counts * layer_seconds, np.inf))


@dataclass(frozen=True, slots=True)
class Cut:
    """Contiguous layers on servers, in order."""

    stages: tuple[tuple[str, int], ...]
    """Server and number of layers."""
    seconds: float


def cut(
    layers: int,
    candidates: Sequence[Candidate],
    *,
    overlap: Overlap,
    stages: int | None = None,
    most: int = MAX_STAGES,
) -> Cut | None:
    """Return the best cut of a model, or None where the servers do not hold it.

    Parameters
    ----------
    layers : int
        Of the model.
    candidates : sequence of Candidate
    overlap : Overlap
        Whether stages take turns or work at the same time.
    stages : int, optional
        Exactly so many; by default as many as are best.
    most : int, default=16
        Stages at most.

    Raises
    ------
    ValueError
        If `layers` is not positive or a candidate's seconds are nan or negative.

    Notes
    -----
    O(candidates · most · layers · layers held), vectorised over stages and layers; without the
    factor for stages where the best cut of any number has few enough. Servers that others make
    needless are left out first. Where stages overlap, the cut is the one that takes a single
    request least among those whose slowest stage is as fast as can be. Ties go to the servers
    first by pace and name.
    """
    offers = offered(layers, candidates)
    usable = [n for n in order(candidates) if np.isfinite(offers[n]).any()]
    limit = min(most, layers, len(usable)) if stages is None else stages
    if not usable or not 0 < limit <= min(layers, len(usable)):
        return None
    usable = [usable[n] for n in _needed(offers[usable], limit)]
    table = offers[usable]
    exactly = stages is not None
    best = _solve(table, JOIN[overlap], limit, exactly=exactly)
    if best is None:
        return None
    found = best
    if overlap is Overlap.SLOWEST:
        quick = np.where(table <= best.seconds, table, np.inf)
        found = _solve(quick, np.add, limit, exactly=exactly) or best
    names = [candidates[n].server for n in usable]
    in_order = sorted(
        found.stages, key=lambda stage: (not stage[1] & Role.FIRST, stage[1] & Role.LAST)
    )
    return Cut(tuple((names[n], count) for n, _, count in in_order), best.seconds)


def offered(layers: int, candidates: Sequence[Candidate]) -> Floats:
    """Return the seconds of every candidate by role and layers held, (C, 4, layers + 1).

    Inf where it does not fit and where the number of layers makes no sense for the role.
    """
    if layers < 1:
        raise ValueError(f"`layers` must be positive, not {layers}")
    table = np.full((len(candidates), 4, layers + 1), np.inf)
    for row, candidate in zip(table, candidates, strict=True):
        width = min(layers + 1, candidate.seconds.shape[1])
        row[:, 1:width] = candidate.seconds[:, 1:width]
    if not (table >= 0).all():
        raise ValueError("`candidates` must not have seconds that are negative or nan")
    table[:, Role.WHOLE, :layers] = np.inf
    table[:, : Role.WHOLE, layers:] = np.inf
    return table


def order(candidates: Sequence[Candidate]) -> list[int]:
    """Return the numbers of the candidates by pace and name: how ties between them break."""
    keys = [(candidate.pace, candidate.server) for candidate in candidates]
    return sorted(range(len(keys)), key=keys.__getitem__)


def nothing(layers: int) -> Floats:
    """Return the seconds of a pipeline without stages, by ends held and layers, (4, layers + 1)."""
    empty = np.full((4, layers + 1), np.inf)
    empty[0, 0] = 0.0
    return empty


def extended(before: Floats, offer: Floats, join: Join) -> Floats:
    """Return the least seconds of every pipeline with one stage more.

    Parameters
    ----------
    before : ndarray, shape (..., 4, L + 1)
        Least seconds by ends held and layers.
    offer : ndarray, shape (..., 4, L + 1)
        Of the server that holds the further stage, as `offered` returns it.
    join : callable
        Of `JOIN`.
    """
    layers = before.shape[-1] - 1
    after = np.full(np.broadcast_shapes(before.shape, offer.shape), np.inf)
    whole = join(before[..., 0, 0], offer[..., Role.WHOLE, layers])
    after[..., Role.WHOLE, layers] = whole
    held = np.isfinite(offer[..., : Role.WHOLE, :]).reshape(-1, layers + 1).any(axis=0)
    width = int(np.flatnonzero(held)[-1]) if held.any() else 0
    extend = _by_windows if after.size <= BATCH * 4 * layers else _by_count
    if width:
        for role, source, target in _STEPS:
            offers = offer[..., role, None, : width + 1]
            extend(before[..., source, :], offers, join, after[..., target, :])
    return after


BATCH = 8
"""Pipelines that are extended quicker by all numbers of layers at a time than one by one."""


def _by_windows(before: Floats, offer: Floats, join: Join, after: Floats) -> None:
    width = offer.shape[-1] - 1
    # windows[..., l - 1, w] has width - w fewer layers than l.
    padding = np.full((*before.shape[:-1], width - 1), np.inf)
    line = np.concatenate([padding, before[..., :-1]], axis=-1)
    windows = sliding_window_view(line, width, axis=-1)
    found = join(windows, offer[..., None, :0:-1]).min(axis=-1)
    np.minimum(after[..., 1:], found, out=after[..., 1:])


def _by_count(before: Floats, offer: Floats, join: Join, after: Floats) -> None:
    for count in range(1, offer.shape[-1]):
        found = join(before[..., :-count], offer[..., count, None])
        np.minimum(after[..., count:], found, out=after[..., count:])


def _needed(offers: Floats, limit: int) -> list[int]:
    """Return the servers that a best cut of at most `limit` stages may have to use.

    Not a server that `limit` others match or beat at everything: a cut that uses it leaves one
    of those free to take its place. It is enough to compare with those that are needed: what
    makes one of the others needless makes this one needless too.
    """
    flat = offers.reshape(len(offers), -1)
    finite = np.isfinite(flat)
    # What matches or beats a server comes before it in this order.
    before = np.lexsort((np.where(finite, flat, 0.0).sum(axis=1), (~finite).sum(axis=1)))
    needed: list[int] = []
    for server in before.tolist():
        if len(needed) < limit or (flat[needed] <= flat[server]).all(axis=1).sum() < limit:
            needed.append(server)
    return sorted(needed)


@dataclass(frozen=True, slots=True)
class _Solution:
    stages: tuple[tuple[int, Role, int], ...]
    """Server, role and number of layers."""
    seconds: float


def _solve(offers: Floats, join: Join, limit: int, *, exactly: bool) -> _Solution | None:
    """Return the least seconds with at most, or exactly, so many stages."""
    # Without counting stages it is quicker; where few enough come out, nothing was missed.
    found = _counted(offers, join, None)
    if found is None or (not exactly and len(found.stages) <= limit):
        return found
    if join is np.add:
        return _counted(offers, join, limit, exactly=exactly)
    # No stage is longer than the slowest: the fewer that may be, the smaller the programme.
    bound = found.seconds
    while True:
        counted = _counted(np.where(offers <= bound, offers, np.inf), join, limit, exactly=exactly)
        longer = offers[(offers > bound) & np.isfinite(offers)]
        if counted is not None or not longer.size:
            return counted
        bound = max(LOOSER * bound, float(longer.min()))


LOOSER = 1.25
"""By how much the bound on the slowest stage is raised where no cut keeps it."""


def _counted(
    offers: Floats, join: Join, limit: int | None, *, exactly: bool = False
) -> _Solution | None:
    """Run the programme: states[n][k] has the least seconds with k stages on the first n servers.

    Where stages are not counted, k is always 0.
    """
    layers = offers.shape[-1] - 1
    rows = 1 if limit is None else limit + 1
    start = np.full((rows, 4, layers + 1), np.inf)
    start[0] = nothing(layers)
    states = [start]
    for offer in offers:
        state = states[-1].copy()
        target = state if limit is None else state[1:]
        source = states[-1] if limit is None else states[-1][:-1]
        np.minimum(target, extended(source, offer, join), out=target)
        states.append(state)
    ends = states[-1][:, Role.WHOLE, layers]
    row = rows - 1 if exactly else int(np.argmin(ends))
    if not np.isfinite(ends[row]):
        return None
    return _Solution(_traced(states, offers, join, row), float(ends[row]))


BACKWARDS = (Role.INNER, Role.LAST, Role.FIRST, Role.WHOLE)
"""Roles as they are tried from the last stage to the first."""


def _traced(
    states: Sequence[Floats], offers: Floats, join: Join, row: int
) -> tuple[tuple[int, Role, int], ...]:
    """Walk back from the whole model to nothing: a server is used where it made a difference."""
    stages: list[tuple[int, Role, int]] = []
    ends, held = int(Role.WHOLE), offers.shape[-1] - 1
    counted = states[0].shape[0] > 1
    for server in range(len(offers) - 1, -1, -1):
        value = states[server + 1][row, ends, held]
        before = states[server]
        if value == before[row, ends, held]:
            continue
        row -= counted
        for role in (role for role in BACKWARDS if role & ends == role):
            counts = np.arange(1, held + 1)
            made = join(before[row, ends ^ role, held - counts], offers[server, role, counts])
            matches = np.flatnonzero(made == value)
            if matches.size:
                count = int(counts[matches[0]])
                break
        stages.append((server, role, count))
        ends, held = ends ^ role, held - count
    return tuple(reversed(stages))
