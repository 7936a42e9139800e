"""How kube-scheduler is told of the extender."""

from evenkeel_extender import attachment

FOUND = attachment.scheduler_configuration("http://127.0.0.1:8091", "/etc/scheduler.conf")


def test_only_names_go_over_the_wire_and_an_outage_stops_nobody() -> None:
    (extender,) = FOUND["extenders"]
    assert extender == {
        "urlPrefix": "http://127.0.0.1:8091",
        "filterVerb": "filter",
        "prioritizeVerb": "prioritize",
        "weight": 10,
        "nodeCacheCapable": True,
        "ignorable": True,
        "httpTimeout": "500ms",
    }


def test_the_extender_alone_orders_nodes_and_nobody_is_preempted_unasked() -> None:
    (profile,) = FOUND["profiles"]
    assert profile["schedulerName"] == "evenkeel"
    assert profile["plugins"]["score"] == {"disabled": [{"name": "*"}]}
    assert {"name": "DefaultPreemption"} in profile["plugins"]["postFilter"]["disabled"]
    assert FOUND["percentageOfNodesToScore"] == 100


def test_what_an_administrator_may_choose() -> None:
    found = attachment.scheduler_configuration(
        "http://x", "/k", profile="p", leader_elect=True, qps=20, burst=40
    )
    assert found["clientConnection"] == {"kubeconfig": "/k", "qps": 20, "burst": 40}
    assert found["leaderElection"]["leaderElect"]
    assert found["leaderElection"]["resourceName"] == "p-scheduler"
    assert found["profiles"][0]["schedulerName"] == "p"
