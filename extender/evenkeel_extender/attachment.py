"""How kube-scheduler is told of the extender: its KubeSchedulerConfiguration."""

from typing import Any

from evenkeel_kube import names

TIMEOUT = "500ms"
WEIGHT = 10
"""Any would do: the profile has no score plugins, so the extender alone orders nodes."""


def scheduler_configuration(
    url: str,
    kubeconfig: str,
    *,
    profile: str = names.SCHEDULER,
    leader_elect: bool = False,
    qps: float = 500,
    burst: int = 1000,
) -> dict[str, Any]:
    """Return the configuration of a second kube-scheduler with the extender.

    Parameters
    ----------
    url : str
        Where the extender answers; kube-scheduler adds the verb.
    kubeconfig : str
        Path of the scheduler's credentials.
    profile : str
        ``schedulerName`` it serves.
    leader_elect : bool, default=False
        Whether several instances elect one.
    qps, burst : float, int
        Limit of its own requests: kube-scheduler's default of 50 would bind 50 pods a second.
    """
    everything = {"disabled": [{"name": "*"}]}
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig, "qps": qps, "burst": burst},
        "leaderElection": {
            "leaderElect": leader_elect,
            "resourceName": f"{profile}-scheduler",
            "resourceNamespace": "kube-system",
        },
        # The planned server must be among the nodes that are offered.
        "percentageOfNodesToScore": 100,
        "profiles": [
            {
                "schedulerName": profile,
                # DefaultPreemption does not ask extenders; the operator preempts whole jobs.
                "plugins": {
                    "score": everything,
                    "preScore": everything,
                    "postFilter": {"disabled": [{"name": "DefaultPreemption"}]},
                },
            }
        ],
        "extenders": [
            {
                "urlPrefix": url,
                "filterVerb": "filter",
                "prioritizeVerb": "prioritize",
                "weight": WEIGHT,
                "nodeCacheCapable": True,
                "ignorable": True,
                "httpTimeout": TIMEOUT,
            }
        ],
    }
