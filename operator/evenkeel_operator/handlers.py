"""kopf's part: it watches InferenceJobs and tells the loop. Nothing is decided here.

Only an event handler: change handlers would be triggered by edges and keep their state in
annotations of the user's object. The loop compares levels, whatever the event was.
"""

from collections.abc import Callable
from typing import Any

import kopf

from evenkeel_kube import names

Object = dict[str, Any]
Seen = Callable[[str, Object], None]


def registry(seen: Seen) -> kopf.OperatorRegistry:
    """Return kopf's registry with our one handler.

    Credentials come from ``KUBECONFIG`` where it is set, else from the pod's service account: in
    the order in which `evenkeel_kube.configuration` looks for them.
    """
    found = kopf.OperatorRegistry()

    @kopf.on.login(registry=found)
    def connect(**given: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_kubeconfig(**given) or kopf.login_with_service_account(**given)

    @kopf.on.event(names.GROUP, names.VERSION, "inferencejobs", registry=found)
    async def observe(event: Any, **_: Any) -> None:
        seen(event["type"] or "LISTED", dict(event["object"]))

    return found


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings; each departs from the default for a reason."""
    found = kopf.OperatorSettings()
    found.scanning.disabled = True  # the resources are fixed; no rights to list CRDs are needed
    found.peering.standalone = True  # one acts by Lease; kopf's peering has no lock
    found.posting.enabled = False  # events are posted by the loop, on transitions
    found.networking.request_timeout = 30
    found.networking.connect_timeout = 10
    found.watching.server_timeout = 600  # insurance beside the inactivity timeout of 70 s
    found.persistence.finalizer = f"{names.GROUP}/kopf"
    found.process.ultimate_exiting_timeout = 5
    return found
