"""Hard checks: whether a subtask may run on a server at all.

A list of small functions, asked in order until one refuses. What passes with time (capacity
taken by others of our pods) is not asked here: the extender and the release of gates do that.
"""

from collections.abc import Callable, Iterable

from evenkeel_core.jobs import Constraints, Expression, Term, Toleration
from evenkeel_core.quantities import CPU, fits, shortage
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server, Taint
from evenkeel_core.subtasks import Subtask, Variant

Check = Callable[[Subtask, Server], Reason | None]

BLOCKING = ("NoSchedule", "NoExecute")
"""Effects of taints that keep a pod away; PreferNoSchedule is a wish."""


def ready(_: Subtask, server: Server) -> Reason | None:
    """Refuse a server that does not report Ready."""
    return None if server.ready else Reason.SERVER_NOT_READY


def uncordoned(_: Subtask, server: Server) -> Reason | None:
    """Refuse a server that is marked unschedulable."""
    return None if server.schedulable else Reason.SERVER_CORDONED


def untainted(subtask: Subtask, server: Server) -> Reason | None:
    """Refuse a server with a taint the subtask does not tolerate."""
    for taint in server.taints:
        if taint.effect in BLOCKING and not tolerated(taint, subtask.constraints.tolerations):
            return Reason.TAINT_NOT_TOLERATED
    return None


def selected(subtask: Subtask, server: Server) -> Reason | None:
    """Refuse a server outside the user's nodeSelector or required affinity."""
    constraints: Constraints = subtask.constraints
    labels = server.labels
    if any(labels.get(key) != value for key, value in constraints.node_selector.items()):
        return Reason.SELECTOR_MISMATCH
    if constraints.required and not any(holds(term, server) for term in constraints.required):
        return Reason.SELECTOR_MISMATCH
    return None


def named(subtask: Subtask, server: Server) -> Reason | None:
    """Refuse every server but the one a subtask was sized for."""
    if subtask.server is not None and subtask.server != server.name:
        return Reason.PINNED_ELSEWHERE
    return None


def equipped(subtask: Subtask, server: Server) -> Reason | None:
    """Refuse a server without the devices of any variant."""
    if not any(matches(variant, server) for variant in subtask.variants):
        return Reason.ENGINE_VARIANT_MISSING
    return None


def roomy(subtask: Subtask, server: Server) -> Reason | None:
    """Refuse a server that is too small even when nothing of ours runs there."""
    return None if variant(subtask, server) is not None else Reason.INSUFFICIENT_RESOURCE


CHAIN: tuple[Check, ...] = (
    ready,  # nothing starts on a server that is not there
    uncordoned,  # its administrator wants it empty
    untainted,  # nor where the job is not welcome
    selected,  # nor where its user does not want it
    named,  # nor where a stage was not sized for
    equipped,  # nor without the device
    roomy,  # nor where it can never fit
)

STANDING = tuple(check for check in CHAIN if check not in (equipped, roomy))
"""Those that have nothing to do with the variant a subtask would run as."""


def reason(subtask: Subtask, server: Server, chain: Iterable[Check] = CHAIN) -> Reason | None:
    """Return why a subtask may not run on a server, None if it may."""
    for check in chain:
        refused = check(subtask, server)
        if refused is not None:
            return refused
    return None


def matches(variant: Variant, server: Server) -> bool:
    """Tell whether a server has the device a variant is sized for."""
    if not variant.resource:
        return True
    return any(
        device.resource == variant.resource and variant.device in ("", device.name)
        for device in server.devices
    )


def variant(subtask: Subtask, server: Server) -> Variant | None:
    """Return the first variant that has its device there and fits the empty server."""
    room = server.plannable
    for candidate in subtask.variants:
        if matches(candidate, server) and fits(candidate.demand, room):
            return candidate
    return None


def nearest_shortage(subtask: Subtask, server: Server) -> dict[str, int]:
    """Return what the server lacks for the variant that comes closest; empty if it fits.

    Closest is the one with the smallest missing share of any one resource.
    """
    room = server.plannable
    candidates = [
        shortage(candidate.demand, room)
        for candidate in subtask.variants
        if matches(candidate, server)
    ]

    def share(missing: dict[str, int]) -> float:
        return max(
            (amount / (room.get(name, 0) + 1) for name, amount in missing.items()), default=0
        )

    return min(candidates, key=share, default={CPU: 0})


def tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """Tell whether one of the tolerations covers the taint, as Kubernetes matches them."""
    return any(
        (not toleration.effect or toleration.effect == taint.effect)
        and (
            (toleration.operator == "Exists" and toleration.key in ("", taint.key))
            or (toleration.key == taint.key and toleration.value == taint.value)
        )
        for toleration in tolerations
    )


def holds(term: Term, server: Server) -> bool:
    """Tell whether all expressions of a node affinity term hold; an empty term never does."""
    return bool(term) and all(_true(expression, server) for expression in term)


def _true(expression: Expression, server: Server) -> bool:
    value = server.name if expression.field else server.labels.get(expression.key)
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compared(value, expression)
    return False


def _compared(value: str | None, expression: Expression) -> bool:
    try:
        left, right = int(value or ""), int(expression.values[0])
    except (ValueError, IndexError):
        return False
    return left > right if expression.operator == "Gt" else left < right
