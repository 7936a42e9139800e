"""Why loads stay outside the wanted band: what binds the work to the server with most of it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evenkeel_core import checks
from evenkeel_core.plans import Plan, Refusal, costs
from evenkeel_core.quantities import PODS
from evenkeel_core.reasons import Reason
from evenkeel_core.refusing import amounts, lacking
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Subtask


@dataclass(frozen=True, slots=True)
class _Load:
    """What a server has to do, and how much it does a second."""

    server: Server
    work: float
    rate: float

    @property
    def seconds(self) -> float:
        """The relative load."""
        return self.work / self.rate


def why_uneven(
    plan: Plan, servers: Sequence[Server], loads: Mapping[str, float], band: float
) -> Refusal:
    """Return why a plan's largest relative load is over a band, with the binding resource.

    Parameters
    ----------
    plan : Plan
        A feasible one.
    servers : sequence of Server
        Those it was made for.
    loads : mapping
        Reference seconds of other work, by server; observed load counts where it is larger.
    band : float
        Largest relative load over the mean that was wanted.

    Returns
    -------
    Refusal
        The binding resource is what the other servers have too little of for the subtasks of the
        one with most to do; where they have enough, and its subtasks are too large, too few, or
        bound there in another way, that which runs out first on the server itself.

    Notes
    -----
    O(S · kinds of subtasks on one server).
    """
    found = _loads(plan, servers, loads)
    top = max(found, key=lambda load: load.seconds)
    mean = sum(load.work for load in found) / sum(load.rate for load in found)
    places = {assignment.subtask for assignment in plan.assignments
              if assignment.server == top.server.name}  # fmt: skip
    own = [subtask for subtask in plan.graph.subtasks if subtask.name in places]
    others = [load for load in found if load.seconds < min(top.seconds, band * mean)]
    said = f"{top.server.name} has {top.seconds / mean:.2f} times the mean load, {band:g} is wanted"
    if not own:
        return Refusal(
            plan.job, Reason.BAND_NOT_REACHABLE, f"{said}; none of it is this job's",
            _binding(own, top.server), remedy=f"wait until {top.server.name} has less to do",
            server=top.server.name,
        )  # fmt: skip
    largest = max(own, key=lambda subtask: (subtask.work, subtask.name))
    short = Counter(_short(own, others))
    if short:
        resource = max(sorted(short), key=lambda name: short[name])
        closest, missing = _closest(own, others, resource)
        return Refusal(
            largest.name, Reason.BAND_NOT_REACHABLE, f"{said}; {resource} binds",
            resource, missing[resource],
            f"{closest.name} with {amounts(missing)} more would take some of it",
            closest.name, lacking=missing,
        )  # fmt: skip
    resource = _binding(own, top.server)
    words, remedy = _bound(own, others, largest, band * mean)
    return Refusal(
        largest.name, Reason.BAND_NOT_REACHABLE, f"{said}; {resource} binds: {words}",
        resource, remedy=remedy, server=top.server.name,
    )  # fmt: skip


def _loads(plan: Plan, servers: Sequence[Server], loads: Mapping[str, float]) -> list[_Load]:
    """Return the load of every server that may run some subtask."""
    work = {s.name: max(loads.get(s.name, 0.0), s.observed_load or 0.0) for s in servers}
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    for assignment in plan.assignments:
        work[assignment.server] += subtasks[assignment.subtask].work
    usable = {name for row in costs(plan) for name, took in row.items() if took < float("inf")}
    rates = dict(zip(plan.servers, plan.rates, strict=True))
    return [_Load(s, work[s.name], rates[s.name]) for s in servers if s.name in usable]


def _kinds(subtasks: Sequence[Subtask]) -> Iterator[Subtask]:
    """Yield one subtask of each task and server it is bound to: the others fit where it does."""
    yield from {(subtask.task, subtask.server): subtask for subtask in subtasks}.values()


def _short(own: Sequence[Subtask], others: Sequence[_Load]) -> Iterator[str]:
    """Yield what each of the other servers has too little of, for each kind of subtask."""
    for subtask in _kinds(own):
        for load in others:
            if checks.reason(subtask, load.server) is Reason.INSUFFICIENT_RESOURCE:
                missing = lacking(subtask, load.server)
                room = load.server.plannable
                yield max(sorted(missing), key=lambda n: missing[n] / (room.get(n, 0) + 1))


def _closest(
    own: Sequence[Subtask], others: Sequence[_Load], resource: str
) -> tuple[Server, dict[str, int]]:
    """Return the server that lacks least of a resource for a subtask, and all that it lacks."""
    offers = [
        (lacking(subtask, load.server), load.server)
        for subtask in _kinds(own)
        for load in others
        if checks.reason(subtask, load.server) is Reason.INSUFFICIENT_RESOURCE
    ]
    short = [offer for offer in offers if resource in offer[0]]
    missing, server = min(short, key=lambda offer: (offer[0][resource], offer[1].name))
    return server, missing


def _binding(own: Sequence[Subtask], server: Server) -> str:
    """Return the resource that runs out first on a server, the subtasks taken together."""
    room = server.plannable
    taken: dict[str, float] = {}
    for subtask in own:
        variant = checks.variant(subtask, server)
        for name, amount in (variant.demand if variant else {}).items():
            taken[name] = taken.get(name, 0.0) + amount / max(1, room.get(name, 0))
    return max(sorted(taken), key=lambda name: taken[name], default=PODS)


def _bound(
    own: Sequence[Subtask], others: Sequence[_Load], largest: Subtask, level: float
) -> tuple[str, str]:
    """Return why subtasks stay that would fit elsewhere, and what would help."""
    open_to = [o for o in others if any(checks.reason(t, o.server) is None for t in _kinds(own))]
    if not open_to:
        return "no other server may run its subtasks", "let the job run on more servers"
    least = min(own, key=lambda subtask: (subtask.work, subtask.name))
    if all(o.work + least.work > level * o.rate for o in open_to):
        return (
            f"with {least.name} more, every other server would be over it too",
            f"cut {largest.task} into more shards",
        )
    return "elsewhere its subtasks take much longer", "widen the band"
