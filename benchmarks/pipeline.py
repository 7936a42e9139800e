"""Pipelines over unlike servers: against every one there is, against plain rules, and on Helix.

Chains and sets of disjoint chains on synthetic racks, under both overlap laws; then Helix's
measured layer times and clusters (ASPLOS 2025), where a set of chains is a placement and counts
by its tokens a second. Placements go to files that Helix's own format describes.

python -m benchmarks.pipeline --data ../shared/data --placements /tmp/placements --json
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import helix
from evenkeel_core import plain_cuts, replicas
from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import JOIN, Candidate, Role, cut, linear
from evenkeel_core.problems import Floats, Ints

RATIOS = (1.0, 2.0, 4.0)
"""Speed of the fastest servers over that of the slowest."""
LARGE = (126, 64)
"""Layers and servers of the largest rack: a 405-billion model over a row of racks."""
MOST_HELD = (20, 40, 127)
"""Layers that the largest racks' servers hold at most."""
PLAIN = (
    plain_cuts.cut_evenly,
    plain_cuts.cut_by_memory,
    plain_cuts.cut_by_speed,
    plain_cuts.one_server,
)
SLACK = 1 + 1e-9


def main() -> int:
    """Cut over random racks of every ratio under both laws, then on Helix; print what came out."""
    options = _options()
    random = np.random.default_rng(options.seed)
    rows = [
        row
        for overlap, ratio in itertools.product(Overlap, RATIOS)
        for row in (
            _chains(overlap, ratio, random, options.racks),
            _sets(overlap, ratio, random, options.racks),
            _searched(overlap, ratio, random, options.racks // 10),
        )
    ]
    placed = list(_placed(options.data, options.placements)) if options.data.exists() else []
    for row in (*rows, *placed):
        print(json.dumps(row), file=sys.stderr)
    if options.json:
        largest = [_largest(overlap, held, random) for overlap in Overlap for held in MOST_HELD]
        print(json.dumps(_summary(rows, placed, largest)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--racks", type=int, default=200,
        help="of each ratio and law: so many for chains, for sets, and a tenth of more servers",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds helix/")
    parser.add_argument("--placements", type=Path, help="folder for one .ini a cluster and model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _summary(
    rows: list[dict[str, Any]], placed: list[dict[str, Any]], largest: list[dict[str, float]]
) -> dict[str, Any]:
    def total(key: str) -> int:
        return sum(row.get(key, 0) for row in rows)

    return {
        "racks": total("racks"),
        "enumerated": sum(row["racks"] for row in rows if "unlike_enumerated" in row),
        "unlike_enumerated": total("unlike_enumerated"),
        "worse_than_a_baseline": total("worse_than_a_baseline"),
        "rows": rows,
        "largest": {
            "layers": LARGE[0],
            "servers": LARGE[1],
            "seconds": max(max(one["chain"], one["sets"]) for one in largest),
            "chain_seconds": max(one["chain"] for one in largest),
            "sets_seconds": max(one["sets"] for one in largest),
        },
        "helix": placed,
    }


# Synthetic racks


def _rack(
    random: np.random.Generator, ratio: float, servers: int, held: int, most: int
) -> list[Candidate]:
    """Return servers whose speeds span the ratio; the ends of the model take room and time."""
    found = []
    for number in range(servers):
        room, ends = int(random.integers(0, held)), random.integers(0, 2, 2)
        fits = [max(0, room - int(taken)) for taken in (0, ends[0], ends[1], ends.sum())]
        stage = float(random.choice([0.0, 0.1, 1.0]))
        once = (stage, 0.0, stage + 0.3, 0.3)
        layers = tuple(min(most, fit) for fit in fits)
        pace = float(ratio ** random.random())
        found.append(linear(f"server-{number:02}", layers, pace, once))  # type: ignore[arg-type]
    return found


def _chains(
    overlap: Overlap, ratio: float, random: np.random.Generator, racks: int
) -> dict[str, Any]:
    """Compare the seconds of one pipeline with the best of all and with the plain rules."""
    unlike = worse = possible = 0
    times: dict[str, list[float]] = {plain.__name__: [] for plain in PLAIN}
    for _ in range(racks):
        layers, offered = int(random.integers(4, 11)), _rack(random, ratio, _few(random), 9, 10)
        found = cut(layers, offered, overlap=overlap)
        ours = found.seconds if found else np.inf
        unlike += not _same(ours, float(_by_subset(layers, offered, overlap).min()))
        possible += found is not None
        for plain in PLAIN:
            other = plain(layers, offered, overlap)
            worse += other is not None and ours > other.seconds * SLACK
            if found and other:
                times[plain.__name__].append(other.seconds / ours)
    return _row("chain", overlap, ratio, racks, possible, worse, times) | {
        "unlike_enumerated": unlike
    }


def _sets(
    overlap: Overlap, ratio: float, random: np.random.Generator, racks: int
) -> dict[str, Any]:
    """Compare the rates of sets with the best of all, for each number of pipelines."""
    unlike = worse = possible = 0
    times: dict[str, list[float]] = {plain.__name__: [] for plain in PLAIN}
    for _ in range(racks):
        layers, offered = int(random.integers(2, 9)), _rack(random, ratio, _few(random), 9, 8)
        sets = replicas.share_out(layers, offered, overlap=overlap)
        ours = {len(found): replicas.rate(found) for found in sets}
        best = _every_set(_by_subset(layers, offered, overlap), len(offered))
        unlike += ours.keys() != best.keys() or not all(_same(ours[n], best[n]) for n in best)
        possible += bool(sets)
        worse += _slower(layers, offered, overlap, max(ours.values(), default=0.0), times)
    return _row("set", overlap, ratio, racks, possible, worse, times) | {
        "unlike_enumerated": unlike
    }


def _searched(
    overlap: Overlap, ratio: float, random: np.random.Generator, racks: int
) -> dict[str, Any]:
    """Compare sets over more servers than can be enumerated with the plain rules."""
    worse = possible = 0
    times: dict[str, list[float]] = {plain.__name__: [] for plain in PLAIN}
    for _ in range(racks):
        layers, servers = int(random.integers(24, 81)), int(random.integers(9, 33))
        offered = _rack(random, ratio, servers, int(random.integers(12, 100)), layers)
        sets = replicas.share_out(layers, offered, overlap=overlap)
        possible += bool(sets)
        ours = max(map(replicas.rate, sets), default=0.0)
        worse += _slower(layers, offered, overlap, ours, times)
    return _row("large set", overlap, ratio, racks, possible, worse, times)


def _slower(
    layers: int,
    offered: Sequence[Candidate],
    overlap: Overlap,
    ours: float,
    times: dict[str, list[float]],
) -> int:
    """Return how many plain rules, each in as many replicas as are best, beat a rate."""
    slower = 0
    for plain in PLAIN:
        other = replicas.rate(plain_cuts.in_replicas(plain, layers, offered, overlap))
        slower += other > ours * SLACK
        if other:
            times[plain.__name__].append(ours / other)
    return slower


def _row(
    kind: str,
    overlap: Overlap,
    ratio: float,
    racks: int,
    possible: int,
    worse: int,
    times: dict[str, list[float]],
) -> dict[str, Any]:
    return {
        "kind": kind,
        "law": overlap.value,
        "ratio": ratio,
        "racks": racks,
        "possible": possible,
        "worse_than_a_baseline": worse,
        "times_ours": {name: round(fmean(each), 3) for name, each in times.items() if each},
    }


def _few(random: np.random.Generator) -> int:
    return int(random.integers(1, 9))


def _same(one: float, other: float) -> bool:
    return bool(one == other or abs(one - other) <= 1e-9 * abs(other))


def _by_subset(layers: int, offered: Sequence[Candidate], overlap: Overlap) -> Floats:
    """Return the least seconds of all pipelines over exactly the servers of each subset."""
    seconds = np.full(1 << len(offered), np.inf)
    for subset in range(1, len(seconds)):
        servers = [server for bit, server in enumerate(offered) if subset >> bit & 1]
        if len(servers) <= layers:
            seconds[subset] = _every_chain(layers, servers, overlap)
    return seconds


def _every_chain(layers: int, servers: Sequence[Candidate], overlap: Overlap) -> float:
    """Try every way to cut and every pair of ends; the order between the ends changes nothing."""
    held = _parts(layers, len(servers))
    table = np.full((len(servers), 4, layers + 1), np.inf)
    for row, server in zip(table, servers, strict=True):
        width = min(layers + 1, server.seconds.shape[1])
        row[:, :width] = server.seconds[:, :width]
    number = np.arange(len(servers))
    if len(servers) == 1:
        return float(table[0, Role.WHOLE, layers])
    best = np.inf
    for first, last in itertools.permutations(range(len(servers)), 2):
        role = np.zeros(len(servers), dtype=np.int64)
        role[first], role[last] = Role.FIRST, Role.LAST
        total = JOIN[overlap].reduce(table[number, role, held], axis=1)  # type: ignore[attr-defined]
        best = min(best, float(total.min(initial=np.inf)))
    return best


@cache
def _parts(layers: int, servers: int) -> Ints:
    """Return every way to cut the layers into one part a server, a row each."""
    ends = [(0, *inner, layers) for inner in itertools.combinations(range(1, layers), servers - 1)]
    return np.diff(np.array(ends, dtype=np.int64), axis=1)


def _every_set(seconds: Floats, servers: int) -> dict[int, float]:
    """Return the highest rate of all sets of so many pipelines, by their number."""
    rates = 1 / seconds
    rates[0] = 0.0
    ways = _ways(servers)
    parts = rates[ways]
    possible = (parts > 0) | (ways == 0)
    rate = np.where(possible.all(axis=1), parts.sum(axis=1), 0.0)
    number = (ways > 0).sum(axis=1)
    best = {n: float(rate[number == n].max()) for n in range(1, servers + 1)}
    return {n: found for n, found in best.items() if found > 0}


@cache
def _ways(servers: int) -> Ints:
    """Return every way to share servers out, some or all: subsets as bits, a row a way."""

    def shared(left: int) -> Iterator[tuple[int, ...]]:
        if not left:
            yield ()
            return
        lowest = left & -left
        yield from shared(left ^ lowest)
        rest = part = left ^ lowest
        while True:
            for others in shared(rest ^ part):
                yield (part | lowest, *others)
            if not part:
                break
            part = (part - 1) & rest

    found = [way + (0,) * (servers - len(way)) for way in shared((1 << servers) - 1)]
    return np.array(found, dtype=np.int64).reshape(len(found), servers)


def _largest(overlap: Overlap, held: int, random: np.random.Generator) -> dict[str, float]:
    """Return the processor seconds of one chain and of sets on the largest rack."""
    layers, servers = LARGE
    offered = _rack(random, RATIOS[-1], servers, held, layers)
    begin = time.process_time()
    chain = cut(layers, offered, overlap=overlap)
    between = time.process_time()
    sets = replicas.share_out(layers, offered, overlap=overlap)
    end = time.process_time()
    possible = chain is not None and bool(sets)
    return {
        "chain": round(between - begin, 3) if possible else np.inf,
        "sets": round(end - between, 3) if possible else np.inf,
    }


# Helix


def _placed(data: Path, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Place each model on each cluster, stages overlapping, as fast as may be.

    As sets of chains, of all nodes and of every site for itself; where there are several sites,
    as one chain through all of them too.
    """
    for cluster, model in itertools.product(helix.clusters(data), helix.MODELS):
        begin = time.process_time()
        rates = helix.Rates(data, model, cluster)
        sites = cluster.sites()
        nodes = range(len(cluster.kinds))
        ways = [[chain for site in sites for chain in _set(cluster, model, rates, site)]]
        if len(sites) > 1:
            whole = _set(cluster, model, rates, nodes)
            ways.append([_along(cluster, model, rates, chain) for chain in whole])
            routes = cluster.routes(model, nodes)
            ways += [_through(cluster, model, rates, route) for route in routes]
        speeds = [sum(helix.tokens(cluster, model, rates, one) for one in way) for way in ways]
        best = int(np.argmax(speeds))
        alike = [
            [node for node, other in enumerate(cluster.kinds) if other == kind]
            for kind in sorted(set(cluster.kinds))
        ]
        separate = [chain for some in alike for chain in _set(cluster, model, rates, some)]
        if folder and ways[best]:
            folder.mkdir(parents=True, exist_ok=True)
            text = helix.placement(model.layers, len(cluster.kinds), ways[best])
            (folder / f"{cluster.name}-{model.name}.ini").write_text(text)
        yield {
            "kind": "helix",
            "cluster": cluster.name,
            "model": model.name,
            "tokens_per_second": round(speeds[best], 2),
            "stages": [len(chain) for chain in ways[best]],
            "shared_stages": sum(len(stage) > 1 for one in ways[best] for stage, _ in one),
            "published_objective": helix.PUBLISHED.get((cluster.name, model.name)),
            "separate_pipelines": round(
                sum(helix.tokens(cluster, model, rates, chain) for chain in separate), 2
            ),
            "seconds": round(time.process_time() - begin, 3),
        }


def _set(
    cluster: helix.Cluster, model: helix.Model, rates: helix.Rates, nodes: Sequence[int]
) -> list[helix.Chain]:
    """Return the fastest set of disjoint chains over some nodes that thick links join."""
    offered = [_offer(cluster, rates, (node,)) for node in nodes]
    sets = replicas.share_out(
        model.layers, offered, overlap=Overlap.SLOWEST, most=len(cluster.kinds)
    )
    fastest = max(sets, key=replicas.rate, default=())
    return [[((int(server),), held) for server, held in one.stages] for one in fastest]


def _along(
    cluster: helix.Cluster, model: helix.Model, rates: helix.Rates, chain: helix.Chain
) -> helix.Chain:
    """Return a chain in the order in which it passes between sites where most gets through."""
    held = dict(chain)
    routes = cluster.routes(model, [node for (node,) in held], shared=(1,))
    orders = [[(stage, held[stage]) for stage in route.stages()] for route in routes]
    return max(orders, key=lambda order: helix.tokens(cluster, model, rates, order), default=chain)


def _through(
    cluster: helix.Cluster, model: helix.Model, rates: helix.Rates, route: helix.Route
) -> list[helix.Chain]:
    """Return the fastest chain along a route, as the only one."""
    stages = route.stages()
    offered = [_offer(cluster, rates, stage) for stage in stages]
    found = cut(model.layers, offered, overlap=Overlap.SLOWEST, most=len(stages))
    if found is None:
        return []
    held = dict(found.stages)
    # The order of the stages changes nothing for the cut; links make it the route's.
    named = zip(offered, stages, strict=True)
    return [[(stage, held[one.server]) for one, stage in named if one.server in held]]


def _offer(cluster: helix.Cluster, rates: helix.Rates, stage: Sequence[int]) -> Candidate:
    """Return what nodes offer that hold the same layers and share the requests."""
    kind = rates.of(cluster.kinds[stage[0]])
    each = [helix.stage_rate(cluster, rates, stage, held) for held in range(1, len(kind) + 1)]
    name = "+".join(f"{node:03}" for node in stage)
    return Candidate(name, np.array([[np.inf, *(1 / rate for rate in each)]] * 4))


if __name__ == "__main__":
    sys.exit(main())
