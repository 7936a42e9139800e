"""Helix's clusters (ASPLOS 2025): what a machine does with each number of layers, and placements.

The rates are those of Helix's own solver (Thesys-lab/Helix-ASPLOS25, simulator/model_manager):
a machine keeps at most half of its memory for weights, fits so many blocks of keys and values
beside them, and from these, a load share and measured layer times follow its tokens a second.
"""

import configparser
import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product, zip_longest
from pathlib import Path

import numpy as np

CLUSTERS = ("cluster10", "single24", "3cluster24")
BLOCK, HELD, INPUT, OUTPUT = 16, 0.3, 750, 240
"""Tokens of a block, share of the blocks in use, prompt and answer of a typical request."""
ROUNDS = 10
SHARED = (1, 2, 3)
"""Nodes that may hold the same layers where a pipeline passes from one site to the next."""
UNITS = {"kbps": 1e3, "mbps": 1e6, "gbps": 1e9}


@dataclass(frozen=True, slots=True)
class Model:
    """A model as Helix's solver describes it."""

    name: str
    layers: int
    activation: float
    """Bytes of one token between two stages."""
    typical: Mapping[str, int]
    """Layers a machine holds on average: where enough machines for 1.2 models are there."""
    tight: Mapping[str, int]
    """The same where they are not."""
    pace: Mapping[str, float]
    """Layer-tokens a second, relative: where the rounds begin."""


MODELS = (
    Model(
        "llama2_70b", 80, 8192 * 2.0,
        {"A100": 8, "V100": 3, "L4": 4, "L4x2": 9, "T4": 3, "T4x2": 6, "T4x4": 12},
        {"A100": 12, "V100": 4, "L4": 7, "L4x2": 14, "T4": 4, "T4x2": 9, "T4x4": 18},
        {"A100": 80, "V100": 40, "L4": 20, "L4x2": 30, "T4": 12.5, "T4x2": 20, "T4x4": 30},
    ),
    Model(
        "llama1_30b", 60, 6656 * 2.0,
        {"A100": 12, "V100": 4, "L4": 8, "L4x2": 14, "T4": 4, "T4x2": 10, "T4x4": 20},
        {"A100": 18, "V100": 7, "L4": 11, "L4x2": 22, "T4": 7, "T4x2": 15, "T4x4": 30},
        {"A100": 48, "V100": 25, "L4": 9, "L4x2": 15, "T4": 8, "T4x2": 15, "T4x4": 23},
    ),
)  # fmt: skip
PUBLISHED = {("single24", "llama2_70b"): 1289.56, ("3cluster24", "llama2_70b"): 1212.18}
"""Objectives in tokens a second, from the first lines of Helix's ``ilp_solution.sol``."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines and what each link between two of them carries."""

    name: str
    kinds: tuple[str, ...]
    """Of each node."""
    links: Mapping[tuple[int, int], float]
    """Bits a second as Helix counts them, both ways."""
    nics: Mapping[str, float]
    """Of each kind of machine."""

    def carries(self, one: int, other: int, model: Model) -> float:
        """Return the tokens a second between two nodes, 0 where they are not joined."""
        return self.links.get((one, other), 0.0) / model.activation

    def sites(self) -> list[list[int]]:
        """Return the nodes in groups that fast links join: a tenth of the fastest or more."""
        fast = max(self.links.values()) / 10
        sites: list[list[int]] = []
        for node in range(len(self.kinds)):
            near = [site for site in sites if self.links.get((site[0], node), 0.0) >= fast]
            (near[0] if near else sites.append([]) or sites[-1]).append(node)
        return sites

    def routes(
        self, model: Model, nodes: Sequence[int], shared: Sequence[int] = SHARED
    ) -> Iterator["Route"]:
        """Yield the ways to walk through the sites of some nodes, with every choice of joints."""
        parts = [[node for node in site if node in nodes] for site in self.sites()]
        for sites in permutations(part for part in parts if part):
            if sites[0] > sites[-1]:
                continue  # the same way backwards
            pairs = pairwise(sites)
            choices = [list(self._joints(*pair, model, shared)) for pair in pairs]
            for joints in product(*choices):
                ends = [node for joint in joints for node in (*joint.before, *joint.after)]
                if len(set(ends)) == len(ends):
                    yield Route(tuple(map(tuple, sites)), joints)

    def _joints(
        self, before: Sequence[int], after: Sequence[int], model: Model, shared: Sequence[int]
    ) -> Iterator["Joint"]:
        """Yield what two sites may be joined by: a node here, and some alike nodes there.

        The slow link between two nodes limits a pipeline; a stage that several nodes hold has
        as many links.
        """
        for forward, (here, there) in ((True, (before, after)), (False, (after, before))):
            kinds = sorted({self.kinds[node] for node in there})
            for kind, size in product(kinds, shared):
                alike = [node for node in there if self.kinds[node] == kind]
                if len(alike) < size:
                    continue
                ways = [
                    (sum(links), node, team)
                    for node in here
                    for links, team in [self._widest(node, alike, size, model)]
                ]
                _, node, team = max(ways)
                yield Joint((node,), team) if forward else Joint(team, (node,))

    def _widest(
        self, node: int, alike: Sequence[int], size: int, model: Model
    ) -> tuple[list[float], tuple[int, ...]]:
        best = sorted(alike, key=lambda other: (-self.carries(node, other, model), other))[:size]
        return [self.carries(node, other, model) for other in best], tuple(sorted(best))


@dataclass(frozen=True, slots=True)
class Joint:
    """The last stage in one site and the first in the next; one of both may be several nodes."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Sites in the order in which a pipeline passes them, and how it gets from each to the next."""

    sites: tuple[tuple[int, ...], ...]
    joints: tuple[Joint, ...]

    def stages(self) -> list[tuple[int, ...]]:
        """Return the nodes that hold the same layers, in the order in which layers pass them."""
        ordered: list[tuple[int, ...]] = []
        entry: tuple[int, ...] = ()
        for site, joint in zip_longest(self.sites, self.joints):
            leaving = joint.before if joint else ()
            inner = [(node,) for node in site if node not in (*entry, *leaving)]
            ordered += [group for group in (entry, *inner, leaving) if group]
            entry = joint.after if joint else ()
        return ordered


def clusters(data: Path) -> Iterator[Cluster]:
    """Yield the clusters of the artifact."""
    machines = _ini(data / "helix" / "google_machine_profiles.ini.gz")
    nics = {name: _number(machines[name]["inbound_nic_speed"]) for name in machines.sections()}
    for name in CLUSTERS:
        file = _ini(data / "helix" / f"{name}.ini.gz")
        count = int(file["NodeNames"]["total_compute_nodes"])
        links: dict[tuple[int, int], float] = {}
        for section in file.sections():
            kind, *ends = section.split("-")
            if kind == "Link" and all(end.isdigit() for end in ends):
                one, other = map(int, ends)
                links[one, other] = links[other, one] = _number(file[section]["bandwidth"])
        kinds = tuple(file[f"ComputeNode-{node}"]["type"] for node in range(count))
        yield Cluster(name, kinds, links, nics)


class Rates:
    """Tokens a second of each kind of machine with each number of layers, in one cluster."""

    def __init__(self, data: Path, model: Model, cluster: Cluster) -> None:
        self._model = model
        self._blocks: dict[str, list[int]] = {}
        for row in _rows(data / "helix" / "kv_blocks.csv"):
            if row["model"] == model.name:
                held = self._blocks.setdefault(row["machine"], [])
                held.append(int(row["kv_blocks_of_16_tokens"]))
        self._times: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in _rows(data / "helix" / "machine_latency_profiles.csv.gz"):
            if row["model"] == model.name:
                times = self._times.setdefault((row["machine"], row["phase"]), [])
                batch = float(row["batch_tokens_or_requests"])
                times.append((batch, float(row["ms_per_layer"]) / 1000))
        self._count = Counter(cluster.kinds)
        held = sum(number * model.typical[kind] for kind, number in self._count.items())
        self._typical = model.typical if held >= 1.2 * model.layers else model.tight
        self._pace = {kind: float(model.pace[kind]) for kind in self._count}
        for _ in range(ROUNDS):
            # How busy a machine is depends on all others: their paces settle in some rounds.
            self._pace = {
                kind: self._rate(kind, self._typical[kind]) * self._typical[kind]
                for kind in self._count
            }
        most = {kind: cluster.nics[kind] / model.activation for kind in self._count}
        self._table = {
            kind: [min(self._rate(kind, layers), most[kind]) for layers in self._holds(kind)]
            for kind in self._count
        }

    def of(self, kind: str) -> list[float]:
        """Return the tokens a second with 1, 2, … layers."""
        return self._table[kind]

    def _holds(self, kind: str) -> range:
        return range(1, len(self._blocks[kind.lower()]) + 1)

    def _rate(self, kind: str, layers: int) -> float:
        time = {each: 1 / pace for each, pace in self._pace.items()}
        held = {each: number * self._typical[each] for each, number in self._count.items()}
        elsewhere = sum(held[each] * time[each] for each in held) / sum(held.values())
        own = layers * time[kind]
        share = own / ((self._model.layers - layers) * elsewhere + own)
        blocks = BLOCK * self._blocks[kind.lower()][layers - 1] * layers
        together = int(HELD * blocks / layers) / (INPUT + OUTPUT) * share
        requests = together / OUTPUT
        prompt, answer = round(requests * INPUT), round(together)
        if requests >= 1:
            prompt, answer = INPUT, OUTPUT
            seconds = self._seconds(kind, "prompt", prompt) + self._seconds(kind, "decode", answer)
            return (prompt + answer) / (layers * seconds)
        # A prompt waits until enough of it is there: it is worked on every so many steps.
        steps = 1 / requests
        seconds = self._seconds(kind, "prompt", int(prompt * steps))
        seconds += self._seconds(kind, "decode", answer) * steps
        return steps * (prompt + answer) / (layers * seconds)

    def _seconds(self, kind: str, phase: str, batch: float) -> float:
        batches, times = zip(*sorted(self._times[kind.lower(), phase]), strict=True)
        return float(np.interp(batch, batches, times))


Chain = Sequence[tuple[tuple[int, ...], int]]
"""Stages in order: the nodes that hold the same layers, one as a rule, and how many layers."""


def placement(layers: int, nodes: int, chains: Sequence[Chain]) -> str:
    """Return chains as Helix writes placements."""
    held: dict[int, list[int]] = {node: [] for node in range(nodes)}
    for chain in chains:
        first = 0
        for stage, count in chain:
            for node in stage:
                held[node] = list(range(first, first + count))
            first += count
        if first != layers:
            raise ValueError(f"a chain holds {first} of {layers} layers")
    # Numbers 0 and 1 are the source and the sink.
    lines = [f"compute_node_{node + 2}={held[node]}" for node in range(nodes)]
    return "\n".join(["[Settings]", "offset=2", "", "[Solution]", *lines, ""])


def tokens(cluster: Cluster, model: Model, rates: Rates, chain: Chain) -> float:
    """Return the tokens a second of a chain: of its slowest stage or hop.

    Between two stages of one node each passes what their link carries; between a node and
    several, the sum of what each link carries and each of the several works off.
    """
    slowest = [stage_rate(cluster, rates, stage, held) for stage, held in chain]
    for (before, held), (after, count) in pairwise(chain):
        far = [(node, rates.of(cluster.kinds[node])[count - 1]) for node in after]
        near = [(node, rates.of(cluster.kinds[node])[held - 1]) for node in before]
        if len(before) == 1:
            passed = [min(rate, cluster.carries(before[0], node, model)) for node, rate in far]
        else:
            passed = [min(rate, max(cluster.carries(node, other, model) for other in after))
                      for node, rate in near]  # fmt: skip
        slowest.append(sum(passed))
    return min(slowest)


def stage_rate(cluster: Cluster, rates: Rates, stage: Sequence[int], held: int) -> float:
    """Return the tokens a second of nodes that hold the same layers and share the requests."""
    return sum(rates.of(cluster.kinds[node])[held - 1] for node in stage)


def _ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(gzip.decompress(path.read_bytes()).decode())
    return parser


def _rows(path: Path) -> Iterator[dict[str, str]]:
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    yield from csv.DictReader(io.StringIO(text.decode()))


def _number(text: str) -> float:
    """Read ``10 * gbps`` and the like."""
    value = 1.0
    for factor in text.split("*"):
        word = factor.strip()
        value *= UNITS.get(word) or float(word)
    return value
