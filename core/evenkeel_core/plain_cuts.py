"""What cuts of a model over servers are compared with; `pipelines.cut` is never worse.

Each takes layers, candidates and the overlap law, and returns a `Cut`, None where the layers do
not fit. They use as many servers as there are, or one. `in_replicas` makes a set of pipelines of
each; `replicas.share_out` is never worse than that.
"""

from collections.abc import Callable, Sequence

import numpy as np

from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate, Cut, Role, order

PlainCut = Callable[[int, Sequence[Candidate], Overlap], Cut | None]
ENDS = (Role.INNER, Role.FIRST, Role.LAST)


def cut_evenly(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:
    """Cut a model into parts as equal as the servers' room allows, over all servers."""
    return _cut_by(layers, candidates, overlap, lambda _: 1.0)


def cut_by_memory(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:
    """Cut a model in proportion to the layers that fit, as exo does over its ring."""
    return _cut_by(layers, candidates, overlap, lambda candidate: float(_room(candidate)))


def cut_by_speed(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:
    """Cut a model so that all servers take equally long, as far as their room allows."""
    return _cut_by(layers, candidates, overlap, lambda candidate: 1.0 / candidate.pace)


def one_server(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:  # noqa: ARG001 - one stage has nothing to overlap with
    """Put the whole model on the fastest server that holds it."""
    whole = [c for c in candidates if c.seconds.shape[1] > layers]
    seconds, server = min(
        ((float(c.seconds[Role.WHOLE, layers]), c.server) for c in whole), default=(np.inf, "")
    )
    return Cut(((server, layers),), seconds) if np.isfinite(seconds) else None


def in_replicas(
    plain: PlainCut, layers: int, candidates: Sequence[Candidate], overlap: Overlap
) -> tuple[Cut, ...]:
    """Deal the servers out in turn by their pace and cut each hand alike; the best number of hands.

    Empty where not even one hand of all servers holds the model.
    """
    dealt = [candidates[number] for number in order(candidates)]
    best: tuple[Cut, ...] = ()
    for hands in range(1, len(dealt) + 1):
        cuts = [plain(layers, dealt[hand::hands], overlap) for hand in range(hands)]
        found = tuple(one for one in cuts if one is not None)
        if sum(1 / one.seconds for one in found) > sum(1 / one.seconds for one in best):
            best = found
    return best


def _room(candidate: Candidate) -> int:
    """Return how many layers fit whichever stage it is: these rules know nothing of the ends."""
    return min(candidate.fits(role) for role in ENDS)


def _cut_by(
    layers: int,
    candidates: Sequence[Candidate],
    overlap: Overlap,
    share: Callable[[Candidate], float],
) -> Cut | None:
    """Hand out layer by layer to the server that is furthest below its share."""
    if len(candidates) == 1:
        return one_server(layers, candidates, overlap)
    rooms = np.array([_room(candidate) for candidate in candidates])
    shares = np.array([max(share(candidate), 1e-300) for candidate in candidates])
    counts = np.zeros(len(candidates), dtype=np.int64)
    for _ in range(layers):
        level = np.where(counts < rooms, (counts + 1) / shares, np.inf)
        if not np.isfinite(level).any():
            return None
        counts[int(np.argmin(level))] += 1
    stages = [(c, int(count)) for c, count in zip(candidates, counts, strict=True) if count]
    return _as_cut(stages, overlap)


def _as_cut(stages: Sequence[tuple[Candidate, int]], overlap: Overlap) -> Cut | None:
    last = len(stages) - 1
    roles = [(number == 0) + 2 * (number == last) for number in range(len(stages))]
    seconds = [c.seconds[role, held] for (c, held), role in zip(stages, roles, strict=True)]
    total = float(sum(seconds) if overlap is Overlap.SUM else max(seconds))
    if not np.isfinite(total):
        return None
    return Cut(tuple((candidate.server, held) for candidate, held in stages), total)
