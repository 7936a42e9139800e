"""Why a subtask can be placed nowhere, and the smallest change that would help.

Every server is asked for all the checks it fails, not only the first: the remedy names whatever
has to change on the server that needs the least, so that it is enough.
"""

from collections.abc import Iterable, Sequence

from evenkeel_core import checks
from evenkeel_core.plans import Refusal
from evenkeel_core.quantities import CPU, GIB, MEMORY, MILLI, minus, shortage
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server, Taint
from evenkeel_core.subtasks import Subtask


def why_not(subtask: Subtask, servers: Sequence[Server]) -> Refusal:
    """Return why a subtask fits no server, and what would make it fit.

    Parameters
    ----------
    subtask : Subtask
        One that may run on none of `servers`.
    servers : sequence of Server

    Returns
    -------
    Refusal
        A server that is only too small is named before one that something else keeps the subtask
        from; of those the one with the smallest missing share. Else that with the fewest
        obstacles. The reason is then the one that most servers have.
    """
    if not servers:
        return Refusal(subtask.name, Reason.NO_SERVERS, Reason.NO_SERVERS.sentence)
    if subtask.server is not None:
        servers = [server for server in servers if server.name == subtask.server] or servers
    found = {server.name: obstacles(subtask, server) for server in servers}
    closest = min(servers, key=lambda server: _distance(subtask, server, found[server.name]))
    here = found[closest.name]
    missing = lacking(subtask, closest)
    remedy = _remedy(subtask, closest, here)
    if here == (Reason.INSUFFICIENT_RESOURCE,):
        resource = max(missing, key=lambda name: _share(missing[name], closest, name))
        return Refusal(
            subtask.name,
            Reason.INSUFFICIENT_RESOURCE,
            f"{subtask.name} fits none of {len(servers)} servers; {closest.name} comes closest "
            f"and lacks {amounts(missing)}",
            resource,
            missing[resource],
            remedy,
            closest.name,
            here,
            missing,
        )
    firsts = [each[0] for each in found.values() if each]
    if not firsts:
        message = f"{subtask.name} could run, but not with the other members of its set"
        return Refusal(subtask.name, Reason.NO_FEASIBLE_SERVER, message)
    counts = {reason: firsts.count(reason) for reason in sorted(set(firsts))}
    said = ", ".join(f"{reason} on {count}" for reason, count in counts.items())
    return Refusal(
        subtask.name,
        max(counts, key=lambda reason: counts[reason]),
        f"{subtask.name} may run on none of {len(servers)} servers: {said}",
        remedy=remedy,
        server=closest.name,
        obstacles=here,
        lacking=missing,
    )


def obstacles(subtask: Subtask, server: Server) -> tuple[Reason, ...]:
    """Return every check that a subtask fails on a server, in their order."""
    found = [reason for check in checks.CHAIN if (reason := check(subtask, server)) is not None]
    if Reason.ENGINE_VARIANT_MISSING in found:
        # Without the device there is nothing to be too small.
        found.remove(Reason.INSUFFICIENT_RESOURCE)
    return tuple(found)


def lacking(subtask: Subtask, server: Server) -> dict[str, int]:
    """Return what a server would need more, for the variant that comes closest; empty if it fits.

    What is reserved beyond what there is counts too.
    """
    if checks.variant(subtask, server) is not None:
        return {}
    room = minus(server.allocatable, server.reserve)
    fitting = [v for v in subtask.variants if checks.matches(v, server)] or subtask.variants
    each = [shortage(variant.demand, room) for variant in fitting]
    return min(
        each, key=lambda missing: max((_share(n, server, r) for r, n in missing.items()), default=0)
    )


def _share(missing: int, server: Server, resource: str) -> float:
    return missing / (server.plannable.get(resource, 0) + 1)


def _distance(
    subtask: Subtask, server: Server, found: Sequence[Reason]
) -> tuple[bool, int, float, str]:
    missing = lacking(subtask, server)
    share = max((_share(number, server, name) for name, number in missing.items()), default=0.0)
    return tuple(found) != (Reason.INSUFFICIENT_RESOURCE,), len(found), share, server.name


def _remedy(subtask: Subtask, server: Server, found: Iterable[Reason]) -> str:
    """Return what to do about every obstacle on a server, in words."""
    return "; ".join(_done(reason, subtask, server) for reason in found)


def _done(reason: Reason, subtask: Subtask, server: Server) -> str:
    """Return what removes one obstacle."""
    match reason:
        case Reason.SERVER_NOT_READY:
            return f"wait until {server.name} is Ready"
        case Reason.SERVER_CORDONED:
            return f"uncordon {server.name}"
        case Reason.TAINT_NOT_TOLERATED:
            kept_away = ", ".join(map(_written, intolerable(subtask, server)))
            return f"tolerate {kept_away} of {server.name}"
        case Reason.SELECTOR_MISMATCH:
            return f"let nodeSelector and required affinity allow {server.name}"
        case Reason.PINNED_ELSEWHERE:
            return f"bring {subtask.server} back"
        case Reason.INSUFFICIENT_RESOURCE:
            more = amounts(lacking(subtask, server))
            return f"a server like {server.name} with {more} more would do"
    devices = sorted({variant.device or variant.resource for variant in subtask.variants})
    if not devices:
        return reason.sentence
    return f"give {server.name} {amounts(lacking(subtask, server))} of {' or '.join(devices)}"


def intolerable(subtask: Subtask, server: Server) -> list[Taint]:
    """Return the taints of a server that keep a subtask away."""
    tolerations = subtask.constraints.tolerations
    return [
        taint
        for taint in server.taints
        if taint.effect in checks.BLOCKING and not checks.tolerated(taint, tolerations)
    ]


def _written(taint: Taint) -> str:
    """Return a taint as kubectl writes it."""
    return (
        f"{taint.key}={taint.value}:{taint.effect}"
        if taint.value
        else f"{taint.key}:{taint.effect}"
    )


def amounts(missing: dict[str, int]) -> str:
    """Return several amounts with their units, for a sentence."""
    return " and ".join(amount(name, number) for name, number in missing.items())


def amount(resource: str, number: int) -> str:
    """Return an amount with its unit, for a sentence."""
    if resource == CPU:
        return f"{number / MILLI:g} CPU"
    if resource == MEMORY or resource.endswith("storage"):
        return f"{number / GIB:.1f} GiB of {resource}"
    return f"{number} {resource}"
