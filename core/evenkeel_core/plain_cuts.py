"""What cuts of a model over servers are compared with; `pipelines.cut` is never worse.

Each takes layers, candidates and the overlap law, and returns a `Cut`, None where the layers do
not fit. They use as many servers as there are, or one.
"""

from collections.abc import Callable, Sequence

from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate, Cut


def cut_evenly(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:
    """Cut a model into parts as equal as the servers' room allows, over all servers."""
    return _cut_by(layers, candidates, overlap, lambda _: 1.0)


def cut_by_memory(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:
    """Cut a model in proportion to the layers that fit, as exo does over its ring."""
    return _cut_by(layers, candidates, overlap, lambda candidate: float(candidate.layers))


def cut_by_speed(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:
    """Cut a model so that all servers take equally long, as far as their room allows."""
    return _cut_by(layers, candidates, overlap, lambda candidate: 1.0 / candidate.layer_seconds)


def one_server(layers: int, candidates: Sequence[Candidate], overlap: Overlap) -> Cut | None:  # noqa: ARG001 - one stage has nothing to overlap with
    """Put the whole model on the fastest server that holds it."""
    whole = [c for c in candidates if c.layers >= layers]
    if not whole:
        return None
    best = min(whole, key=lambda c: (c.stage_seconds + layers * c.layer_seconds, c.server))
    return Cut(((best.server, layers),), best.stage_seconds + layers * best.layer_seconds)


def _cut_by(
    layers: int,
    candidates: Sequence[Candidate],
    overlap: Overlap,
    share: Callable[[Candidate], float],
) -> Cut | None:
    """Hand out layer by layer to the server that is furthest below its share."""
    counts = dict.fromkeys(range(len(candidates)), 0)
    shares = [share(candidate) for candidate in candidates]
    for _ in range(layers):
        open_to = [i for i, candidate in enumerate(candidates) if counts[i] < candidate.layers]
        if not open_to:
            return None
        counts[min(open_to, key=lambda i: ((counts[i] + 1) / shares[i], i))] += 1
    stages = [(candidates[i], count) for i, count in counts.items() if count]
    each = [c.stage_seconds + count * c.layer_seconds for c, count in stages]
    seconds = sum(each) if overlap is Overlap.SUM else max(each)
    return Cut(tuple((c.server, count) for c, count in stages), seconds)
