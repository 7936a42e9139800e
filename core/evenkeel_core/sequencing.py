"""A schedule as one sequence of units a server, and what a unit moved in it would bring.

The longest ways from the start of the job to a unit (heads) and from it to the end (tails) price
every place a unit could take. Where a server runs one unit at a time the price is exact: with the
unit out of its sequence, the job is as long as the longer of the rest and of the longest way
through the unit. Where a server holds several at a time it is an estimate, and the job is timed
after the move. Plain lists: in the hot loops each number is touched once, which arrays make slow.

Sources: Dell'Amico and Trubian (Annals of Operations Research 1993) for heads, tails and moves in
the disjunctive graph; Mastrolilli and Gambardella, Effective neighbourhood functions for the
flexible job shop problem (Journal of Scheduling 2000), for best reinsertion over all machines,
extended here by transfers, several units at a time and coupled sets.
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evenkeel_core.inserting import Schedule
from evenkeel_core.problems import NOWHERE, Ints, Mask, Problem, allowed, units
from evenkeel_core.timetabling import Timetable

Amounts = tuple[int, ...]
"""Of each resource that may run out."""
Held = tuple[tuple[int, Amounts, Amounts], ...]
"""Servers a unit is on, each with what it takes there and what that leaves of the empty server."""
Pool = list[tuple[float, Amounts]]
"""What runs on one server: when each gives back, rising, and how much."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit could go: a server, and how many units of its sequence come before."""

    server: int
    position: int
    way: float
    """The longest way through the unit there, seconds."""
    span: float
    """The job's length then, seconds: exact where servers run one unit at a time."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """The job without one unit."""

    end: list[float]
    tail: list[float]
    span: float
    last: int
    """Position in the order of the last unit that the missing one follows."""
    first: int
    """Position of the first that follows it."""


class Network:
    """What does not change: units, their edges, costs and demands, as plain lists."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.units = units(problem)
        size = len(self.units)
        self.unit_of = np.zeros(len(problem.subtasks), dtype=np.int64)
        for number, unit in enumerate(self.units):
            self.unit_of[unit] = number
        self.single = [unit.size == 1 for unit in self.units]
        first = np.array([unit[0] for unit in self.units], dtype=np.int64)
        may = allowed(problem)
        self.cost: list[list[float]] = np.where(may, problem.cost, np.inf)[first].tolist()
        held = (problem.demand[first][:, problem.kind] <= problem.capacity).all(axis=2)
        self.options: list[list[int]] = [np.flatnonzero(row).tolist() for row in may[first] & held]
        edges = problem.edge[problem.dependency]
        self.source: list[int] = edges[:, 0].tolist()
        self.target: list[int] = edges[:, 1].tolist()
        self.bytes: list[float] = problem.edge_bytes[problem.dependency].tolist()
        self.before: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        self.after: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        ends = self.unit_of[edges].tolist()
        for edge, (one, other) in enumerate(ends):
            self.before[other].append((one, edge))
            self.after[one].append((other, edge))
        self.slowness: list[float] = (1.0 / problem.link_bandwidth).tolist()
        self.latency: list[float] = problem.link_latency.tolist()
        scarce = _scarce(problem, may)
        self.demand: list[list[Amounts]] = [
            list(map(tuple, rows)) for rows in problem.demand[:, :, scarce].tolist()
        ]
        self.capacity: list[Amounts] = list(map(tuple, problem.capacity[:, scarce].tolist()))
        self.kind: list[int] = problem.kind.tolist()
        self.level = self._levels()
        self.alone = _alone(problem, may)

    def _levels(self) -> list[int]:
        """Return how many edges lead to each unit at most: what it follows has less."""
        level = [0] * len(self.units)
        waiting = [len(before) for before in self.before]
        order = [unit for unit, count in enumerate(waiting) if not count]
        for unit in order:  # grows while it is read
            for other, _ in self.after[unit]:
                level[other] = max(level[other], level[unit] + 1)
                waiting[other] -= 1
                if not waiting[other]:
                    order.append(other)
        if len(order) < len(self.units):
            raise ValueError("the dependencies of `problem` form a circle")
        return level

    def need(self, unit: int, server: int) -> Amounts:
        """Return what a single unit takes of a server."""
        return self.demand[int(self.units[unit][0])][self.kind[server]]

    def left(self, need: Amounts, server: int) -> Amounts:
        """Return what a demand leaves of an empty server."""
        return tuple(
            [room - asked for room, asked in zip(self.capacity[server], need, strict=True)]
        )

    def seconds(self, edge: int, source: int, target: int) -> float:
        """Return how long an edge's data takes from one server to another."""
        if source == target:
            return 0.0
        slowness = max(self.slowness[source], self.slowness[target])
        return self.latency[source] + self.latency[target] + self.bytes[edge] * slowness


def _scarce(problem: Problem, may: Mask) -> Ints:
    """Return the resources of which some server could be asked for more than it has at a time."""
    found, demand = [], problem.demand
    for resource in range(len(problem.resources)):
        taken = np.where(may, demand[:, problem.kind, resource], 0).sum(axis=0)
        if (taken > problem.capacity[:, resource]).any():
            found.append(resource)
    return np.array(found, dtype=np.int64)


def _alone(problem: Problem, may: Mask) -> list[bool]:
    """Tell of each server whether it runs one unit at a time, on no other server meanwhile."""
    alone = np.zeros(len(problem.servers), dtype=bool)
    for resource in range(len(problem.resources)):
        taken = np.where(
            may, problem.demand[:, problem.kind, resource], np.iinfo(np.int64).max // 4
        )
        if len(taken) > 1:
            two = np.partition(taken, 1, axis=0)[:2].sum(axis=0)
            alone |= two > problem.capacity[:, resource]
    for unit in units(problem):
        if unit.size > 1:
            alone &= ~may[unit].any(axis=0)
    return alone.tolist()


class Sequences:
    """An order of all units, with each on its server, timed from both ends.

    What stands earlier in the order goes first on its server. Every schedule is such an order: its
    units by their starts.
    """

    def __init__(self, network: Network, schedule: Schedule) -> None:
        self.network = network
        places, start, end = schedule.assignment, schedule.times.start, schedule.times.end
        size = len(network.units)
        first = [int(unit[0]) for unit in network.units]
        # What takes no time comes before what starts at the same moment, in the order of edges.
        self.order = sorted(
            range(size),
            key=lambda unit: (start[first[unit]], end[first[unit]], network.level[unit], unit),
        )
        self.at = [0] * (size + 1)  # position in the order
        for position, unit in enumerate(self.order):
            self.at[unit] = position
        self.held: list[Held] = [self._holding(unit, places) for unit in range(size)]
        self.seat: list[int] = places.tolist()
        self.place = [held[0][0] if len(held) == 1 else NOWHERE for held in self.held]
        self.length = [self._length(unit, places) for unit in range(size)]
        self.lag = [
            network.seconds(edge, int(places[source]), int(places[target]))
            for edge, (source, target) in enumerate(
                zip(network.source, network.target, strict=True)
            )
        ]
        # The unit before and after on a server that runs one at a time; `size` stands for none.
        self.previous = [size] * (size + 1)
        self.next = [size] * (size + 1)
        self.crowded = [not self._alone(unit) for unit in range(size)]
        self.any_crowded = not all(network.alone)
        self.queue: list[list[int]] = [[] for _ in network.alone]
        for unit in self.order:
            for server, _, _ in self.held[unit]:
                if network.alone[server] and self.queue[server]:
                    self._join(self.queue[server][-1], unit)
                self.queue[server].append(unit)
        self.start = [0.0] * (size + 1)
        self.end = [0.0] * (size + 1)
        self.final = [0.0] * (size + 1)
        self.tail = [0.0] * (size + 1)
        self._time(0, size)

    def _holding(self, unit: int, places: Ints) -> Held:
        network = self.network
        taken: dict[int, Amounts] = {}
        for member in network.units[unit].tolist():
            server = int(places[member])
            need = network.demand[member][network.kind[server]]
            other = taken.get(server, (0,) * len(need))
            taken[server] = tuple(map(sum, zip(need, other, strict=True)))
        return tuple((k, need, network.left(need, k)) for k, need in taken.items())

    def _length(self, unit: int, places: Ints) -> float:
        members = self.network.units[unit]
        return float(self.network.problem.cost_at(members, places[members]).max())

    def _alone(self, unit: int) -> bool:
        return all(self.network.alone[server] for server, _, _ in self.held[unit])

    def _join(self, before: int, after: int) -> None:
        """Let one unit follow another on a server; the number of units stands for none."""
        none = len(self.order)
        self.next[before], self.previous[after] = after, before
        self.next[none] = self.previous[none] = none

    def span(self) -> float:
        """Return the length of the job, seconds."""
        return max(self.end)

    def _time(self, first: int, last: int) -> None:
        """Time anew what an order changed between two positions changes: heads on, tails back."""
        network, order = self.network, self.order
        ahead = self._pools(self.end, order[:first])
        self._pass(order[first:], self.start, self.end, network.before, self.previous, ahead)
        behind = self._pools(self.tail, order[last:])
        self._pass(
            order[last - 1 :: -1] if last else [],
            self.final,
            self.tail,
            network.after,
            self.next,
            behind,
        )

    def _pools(self, value: list[float], done: Iterable[int]) -> list[Pool]:
        """Return what the units of a part of the order hold on servers that hold several."""
        pools: list[Pool] = [[] for _ in self.queue]
        if not self.any_crowded:
            return pools
        for unit in done:
            if self.crowded[unit]:
                for server, need, _ in self.held[unit]:
                    pools[server].append((value[unit], need))
        for pool in pools:
            pool.sort()
        return pools

    def _pass(
        self,
        order: Iterable[int],
        begin: list[float],
        value: list[float],
        near: list[list[tuple[int, int]]],
        chain: list[int],
        pools: list[Pool],
    ) -> None:
        """Set the longest way up to and with each unit, whose nearer ones are set."""
        lag, length, crowded = self.lag, self.length, self.crowded
        for unit in order:
            way = value[chain[unit]]
            for other, edge in near[unit]:
                until = value[other] + lag[edge]
                if until > way:
                    way = until
            if crowded[unit]:
                for server, _, left in self.held[unit]:
                    until = _room(pools[server], left)
                    if until > way:
                        way = until
                for server, need, _ in self.held[unit]:
                    insort(pools[server], (way + length[unit], need))
            begin[unit] = way
            value[unit] = way + length[unit]

    def critical(self) -> list[int]:
        """Return the single units on the longest ways through the job."""
        least = self.span() * (1 - 1e-12)
        end, final, single = self.end, self.final, self.network.single
        return [unit for unit in self.order if end[unit] + final[unit] >= least and single[unit]]

    def schedule(self) -> Schedule:
        """Return where and when every subtask runs."""
        of = self.network.unit_of
        times = Timetable(np.array(self.start)[of], np.array(self.end)[of], self.span())
        return Schedule(np.array(self.seat, dtype=np.int64), times)

    def prices(self, unit: int) -> list[Place]:
        """Return the places a single unit could take, the best other position on each server.

        O(U + E) for the ways without the unit, and as much again for all positions.
        """
        rest = self._rest(unit)
        found = []
        for server in self.network.options[unit]:
            place = self._best(unit, server, rest)
            if place is not None:
                found.append(place)
        return found

    def _rest(self, unit: int) -> _Rest:
        """Return the ways through the job without a unit: it lets pass at once what it orders."""
        network, order, at, lag = self.network, self.order, self.at[unit], self.lag
        size = len(order)
        edges = [edge for _, edge in (*network.before[unit], *network.after[unit])]
        lags = [lag[edge] for edge in edges]
        length, crowded, held = self.length[unit], self.crowded[unit], self.held[unit]
        before, after = self.previous[unit], self.next[unit]
        start, end, final, tail = self.start[:], self.end[:], self.final[:], self.tail[:]
        self._unlink(unit)
        self.length[unit], self.crowded[unit], self.held[unit] = 0.0, False, ()
        for edge in edges:
            lag[edge] = 0.0
        pools = self._pools(end, order[:at])
        self._pass(order[at:], start, end, network.before, self.previous, pools)
        pools = self._pools(tail, order[at + 1 :])
        self._pass(order[at::-1], final, tail, network.after, self.next, pools)
        self.length[unit], self.crowded[unit], self.held[unit] = length, crowded, held
        for edge, seconds in zip(edges, lags, strict=True):
            lag[edge] = seconds
        if not crowded:
            self._join(before, unit)
            self._join(unit, after)
        last = max((self.at[other] for other, _ in network.before[unit]), default=-1)
        first = min((self.at[other] for other, _ in network.after[unit]), default=size)
        return _Rest(end, tail, max(end), last, first)

    def _best(self, unit: int, server: int, rest: _Rest) -> Place | None:
        """Return the best position of a unit on a server, other than where it is."""
        network, end, tail = self.network, rest.end, rest.tail
        arrive = depart = 0.0
        for other, edge in network.before[unit]:
            until = end[other] + network.seconds(edge, self.seat[network.source[edge]], server)
            if until > arrive:
                arrive = until
        for other, edge in network.after[unit]:
            until = tail[other] + network.seconds(edge, server, self.seat[network.target[edge]])
            if until > depart:
                depart = until
        queue, here = self.queue[server], NOWHERE
        if server == self.place[unit]:
            here = queue.index(unit)
            queue = queue[:here] + queue[here + 1 :]
        low, high = self._window(unit, queue, rest, alone=network.alone[server])
        if network.alone[server]:
            heads = [end[queue[low - 1]] if low else 0.0]
            heads += [end[other] for other in queue[low:high]]
            tails = [tail[other] for other in queue[low : high + 1]]
            tails.append(0.0)
        else:
            heads, tails = self._rooms(unit, server, queue, (low, high), rest)
        best, position = np.inf, NOWHERE
        for index, head, way in zip(range(low, high + 1), heads, tails, strict=False):
            way = (head if head > arrive else arrive) + (way if way > depart else depart)
            if way < best and index != here:
                best, position = way, index
        if position == NOWHERE:
            return None
        best += network.cost[unit][server]
        return Place(server, position, best, max(best, rest.span))

    def _window(self, unit: int, queue: list[int], rest: _Rest, *, alone: bool) -> tuple[int, int]:
        """Return the first and the last position in a queue at which a unit makes no circle.

        What comes later in the order than all that a unit follows, or ends after it could start,
        leads to none of it. The best position of all is among these.
        """
        at, end, tail = self.at, rest.end, rest.tail
        begin, until = (end[unit], tail[unit]) if alone else (np.inf, np.inf)
        low, high = 0, len(queue)
        while low < high and at[queue[low]] < rest.last and end[queue[low]] <= begin:
            low += 1
        floor = low
        while high > floor and at[queue[high - 1]] > rest.first and tail[queue[high - 1]] <= until:
            high -= 1
        return low, high

    def _rooms(
        self, unit: int, server: int, queue: list[int], window: tuple[int, int], rest: _Rest
    ) -> tuple[list[float], list[float]]:
        """Return from when on a unit has room, and how long before the end it must go.

        For each position of a window. What stands before it holds the server up to its end, what
        stands after from its start.
        """
        low, high = window
        left = self.network.left(self.network.need(unit, server), server)
        taken = [self._taken(other, server) for other in queue]
        ends = [(rest.end[other], taken[index]) for index, other in enumerate(queue[:high])]
        tails = [(rest.tail[other], taken[low + k]) for k, other in enumerate(queue[low:])]
        forth = _rooms(ends, low, left)
        back = _rooms(tails[::-1], len(queue) - high, left)
        return forth, back[::-1]

    def _taken(self, unit: int, server: int) -> Amounts:
        held = self.held[unit]
        return held[0][1] if len(held) == 1 else next(need for k, need, _ in held if k == server)

    def move(self, unit: int, server: int, position: int) -> bool:
        """Put a single unit elsewhere; tell whether that is possible, and change nothing if not."""
        size, network, at = len(self.order), self.network, self.at
        queue = [other for other in self.queue[server] if other != unit]
        before = queue[position - 1] if position else size
        after = queue[position] if position < len(queue) else size
        must = {other for other, _ in network.before[unit]} | {before}
        later = {other for other, _ in network.after[unit]} | {after}
        must.discard(size)
        later.discard(size)
        last = max((at[other] for other in must), default=-1)
        first = min((at[other] for other in later), default=size)
        changed = self._reorder(unit, must, later, last, first)
        if changed is None:
            return False
        self._unlink(unit)
        self.queue[self.place[unit]].remove(unit)
        self.queue[server].insert(position, unit)
        self._reseat(unit, server)
        if network.alone[server]:
            self._join(before, unit)
            self._join(unit, after)
        self._time(*changed)
        return True

    def _reorder(
        self, unit: int, must: set[int], later: set[int], last: int, first: int
    ) -> tuple[int, int] | None:
        """Move a unit in the order behind all it must follow, with what must follow it.

        Only what lies between the two is looked at (Pearce and Kelly, ACM Journal of
        Experimental Algorithmics 2006). Returns the part of the order that changed.
        """
        order, old = self.order, self.at[unit]
        if last < first:
            if last < old < first:
                return old, old + 1
            new = first if old > first else last
            del order[old]
            order.insert(new, unit)
            low, high = min(old, new), max(old, new)
        else:
            moved = self._behind(unit, later, first, last)
            if moved & must:
                return None
            low, high = min(first, old), max(last, old)
            near = [other for other in order[low : last + 1] if other != unit]
            order[low : high + 1] = [
                *(other for other in near if other not in moved),
                unit,
                *(other for other in near if other in moved),
                *order[last + 1 : old],
            ]
        for index in range(low, high + 1):
            self.at[order[index]] = index
        return low, high + 1

    def _behind(self, unit: int, later: set[int], first: int, last: int) -> set[int]:
        """Return what must come after a unit between two positions of the order."""
        moved, servers = set(later), set[int]()
        before = self.network.before
        for other in self.order[first : last + 1]:
            if other == unit:
                continue
            held = self.held[other]
            if (
                other in moved
                or any(server in servers for server, _, _ in held)
                or any(source in moved for source, _ in before[other])
            ):
                moved.add(other)
                servers.update(server for server, _, _ in held)
        return moved

    def _unlink(self, unit: int) -> None:
        """Join what comes before and after a unit on its server."""
        size = len(self.order)
        self._join(self.previous[unit], self.next[unit])
        self.next[unit] = self.previous[unit] = size

    def _reseat(self, unit: int, server: int) -> None:
        network = self.network
        self.place[unit] = self.seat[int(network.units[unit][0])] = server
        need = network.need(unit, server)
        self.held[unit] = ((server, need, network.left(need, server)),)
        self.length[unit] = network.cost[unit][server]
        self.crowded[unit] = not network.alone[server]
        for _, edge in network.before[unit]:
            self.lag[edge] = network.seconds(edge, self.seat[network.source[edge]], server)
        for _, edge in network.after[unit]:
            self.lag[edge] = network.seconds(edge, server, self.seat[network.target[edge]])


def _rooms(queue: Pool, first: int, left: Amounts) -> list[float]:
    """Return from when on there is room after the first units of a queue, and after each next."""
    pool = sorted(queue[:first])
    rooms = [_room(pool, left)]
    for held in queue[first:]:
        insort(pool, held)
        rooms.append(_room(pool, left))
    return rooms


def _room(pool: Pool, left: Amounts) -> float:
    """Return from when on something fits that leaves so much of an empty server."""
    if len(left) == 1:
        (one,) = left
        for until, (amount,) in reversed(pool):
            one -= amount
            if one < 0:
                return until
        return 0.0
    rest = list(left)
    for until, taken in reversed(pool):
        for index, amount in enumerate(taken):
            rest[index] -= amount
            if rest[index] < 0:
                return until
    return 0.0
