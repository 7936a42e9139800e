"""Plans: which server runs which subtask, and why. Data only; it explains itself.

A plan without its explanation can not be made: `Assignment` carries the terms of the utility
and the runner-up, `Refusal` the binding resource and the missing amount.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from evenkeel_core.quantities import Seconds, Vector
from evenkeel_core.reasons import Reason
from evenkeel_core.subtasks import TaskGraph


@dataclass(frozen=True, slots=True)
class Terms:
    """The three parts of the utility u_i(t), each <= 0; their sum is the utility."""

    cost: float
    edges: float
    load: float

    @property
    def utility(self) -> float:
        """The utility itself."""
        return self.cost + self.edges + self.load


@dataclass(frozen=True, slots=True)
class Assignment:
    """One subtask on its server."""

    subtask: str
    server: str
    seconds: Seconds
    """Predicted from start to end, loading included."""
    start: Seconds
    """Predicted, counted from the start of the job."""
    terms: Terms
    shortlist: tuple[str, ...]
    """Best servers in order, the planned one first; one name for a pinned subtask."""
    runner_up: str | None = None
    regret: float = 0.0
    """Utility lost by taking the runner-up instead; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One subtask (or a whole task) that can not be placed, and what would help."""

    subtask: str
    reason: Reason
    message: str
    resource: str | None = None
    """The binding resource, where one is."""
    missing: int = 0
    """Of that resource, in its unit, on the server that comes closest."""
    remedy: str = ""
    server: str | None = None
    """The one where the least has to change, where the remedy is to change one."""
    obstacles: tuple[Reason, ...] = ()
    """Every check it fails there: without them the subtask could run."""
    lacking: Vector = field(default_factory=dict)
    """All that it would need more, by resource."""


@dataclass(frozen=True, slots=True)
class Factorisation:
    """What the low-rank step did: ``status.plan.factorisation``."""

    rank: int
    explained: float
    error: float
    cost_from_factors: float
    cost_final: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of planning one job.

    Either every subtask has an assignment, or `refusals` says why not and `assignments` is
    empty: a job never starts in part for want of a plan.
    """

    job: str
    graph: TaskGraph
    assignments: tuple[Assignment, ...]
    refusals: tuple[Refusal, ...] = ()
    factorisation: Factorisation | None = None
    potential: float = 0.0
    stable: bool = True
    """No server could claim a subtask that would be better off (a Nash equilibrium)."""
    scale: Seconds = Seconds(1.0)
    """ĉ of the utility."""
    balance: float = 1.0
    """λ of the utility."""
    imbalance: float = 1.0
    """Largest relative load of a server over the mean of those that may be used; 1 is level."""
    unreached: Refusal | None = None
    """Why the loads are outside the band that was wanted, where they are."""
    makespan: Seconds = Seconds(0.0)
    """Predicted, from start to the end of the last subtask, waves included."""
    servers: tuple[str, ...] = ()
    """All that were planned for, sorted by name."""
    columns: tuple[int, ...] = field(default=(), repr=False)
    """Number of its column in `costs`, for each of `servers`: alike ones share one."""
    rates: tuple[float, ...] = field(default=(), repr=False)
    """R_i of each of `servers` for this job, reference seconds per second."""
    costs: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    """Seconds, inf where it may not run: a row a class of subtasks, a column a class of servers."""
    rows: tuple[int, ...] = field(default=(), repr=False)
    """Number of its row in `costs`, for each of `assignments`."""

    @property
    def feasible(self) -> bool:
        """Tell whether every subtask has a server."""
        return not self.refusals


class Costs(Mapping[str, float]):
    """What one class of subtasks takes on every server, by the server's name."""

    def __init__(self, columns: Mapping[str, int], row: tuple[float, ...]) -> None:
        self._columns = columns
        self._row = row

    def __getitem__(self, server: str) -> float:
        """Return the seconds on a server, inf where it may not run."""
        return self._row[self._columns[server]]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the servers."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Return how many servers there are."""
        return len(self._columns)


def costs(plan: Plan) -> tuple[Costs, ...]:
    """Return the rows of a plan's costs, each by server; `Plan.rows` numbers them."""
    columns = dict(zip(plan.servers, plan.columns, strict=True))
    return tuple(Costs(columns, row) for row in plan.costs)
