"""From a pod to nodes: which pods count, as what, and why the others do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pymicro.kubernetes.pods.reader import PodReader, addresses_of, grpc_port, services_of
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ZONE, ping_interval
from tests.fakes.pods import pod

TYPE = "micro.mu/type"
SELECTOR = "micro.mu/selector-greeter"
RECORD = "micro.mu/service-greeter"
LABELS = {TYPE: "service", SELECTOR: "service"}

read = PodReader("greeter").read


def record(*nodes: dict[str, Any], **changes: Any) -> str:
    return json.dumps({"name": "greeter", "version": "1", "endpoints": None, "nodes": list(nodes), **changes})


def node(address: str = "10.0.0.1:80", **metadata: str) -> dict[str, Any]:
    return {"id": "greeter-1", "address": address, "metadata": metadata or {"protocol": "grpc"}}


def registered(text: str, **more: Any) -> dict[str, Any]:
    return pod(labels=LABELS, annotations={RECORD: text}, **more)


def labelled(**more: Any) -> dict[str, Any]:
    return pod(labels={**LABELS, **more.pop("labels", {})}, uid="u-1", **more)


# Which state counts


@pytest.mark.parametrize("make", [labelled, lambda **more: registered(record(node()), **more)])
@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({}, ""),
        ({"ready": False}, "not ready"),
        ({"terminating": True}, "terminating"),
        ({"terminating": True, "ready": False}, "terminating"),
        ({"phase": "Succeeded"}, "finished"),
        ({"phase": "Failed"}, "finished"),
    ],
)
def test_only_pods_that_are_ready_and_stay_count(make: Any, state: dict[str, Any], why: str) -> None:
    found = read(make(**state))
    assert found.why == why
    # One that is being deleted and still serves is a last resort, and says so.
    assert len(found.nodes) == (not why or state == {"terminating": True})
    assert all(("terminating" in node.metadata) is bool(why) for node in found.nodes)
    assert bool(found.text) == bool(why)


def test_a_pod_without_a_ready_condition_does_not_count() -> None:
    one = labelled()
    one["status"]["conditions"] = [{"type": "ContainersReady", "status": "True"}]
    assert read(one).why == "not ready"
    one["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert read(one).why == "not ready"


def test_why_a_pod_is_not_ready_is_said_in_kubelets_words() -> None:
    one = labelled()
    message = "containers with unready status: [main]"
    one["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": message}
    ]
    assert read(one).text == f"it is not ready (ContainersNotReady: {message})"


# Labelled


def test_a_labelled_pod_is_a_node_with_its_uid_and_the_port_named_grpc() -> None:
    one = labelled(
        labels={"app.kubernetes.io/version": "1.2"},
        annotations={"micro.mu/metadata-zone": "a", "micro.mu/metadata-protocol": "http", "other": "x"},
        ports={"metrics": 9090, "grpc": 8081},
    )
    found = read(one)
    assert found.nodes == (Node("u-1", "10.0.0.1:8081", "greeter", "1.2", {"zone": "a", "protocol": "grpc"}),)
    assert not found.registered


@pytest.mark.parametrize("registered_too", [False, True])
def test_a_nodes_zone_is_the_label_that_kubernetes_gives_the_pod(registered_too: bool) -> None:
    given = {RECORD: record(node())} if registered_too else None
    one = labelled(labels={ZONE: "eu-1a"}, annotations=given)
    (found,) = read(one).nodes
    assert found.metadata == {"protocol": "grpc", ZONE: "eu-1a"}
    assert PodReader("greeter")(one) == (found,)


def test_a_record_may_claim_a_zone_only_where_the_cluster_names_none() -> None:
    own = {RECORD: record(node(**{"protocol": "grpc", ZONE: "rack-7"}))}
    (found,) = read(labelled(annotations=own)).nodes
    assert found.metadata[ZONE] == "rack-7"
    (found,) = read(labelled(labels={ZONE: "eu-1a"}, annotations=own)).nodes
    assert found.metadata[ZONE] == "eu-1a"
    full = {f"k{number}": "v" for number in range(126)}
    own = {RECORD: record(node(**{"protocol": "grpc", ZONE: "rack-7", **full}))}
    (found,) = read(labelled(labels={ZONE: "eu-1a"}, annotations=own)).nodes
    assert found.metadata[ZONE] == "eu-1a"


def test_a_record_makes_one_node_of_an_address_and_eight_of_a_pod() -> None:
    same = [{"id": f"n{number}", "address": "10.0.0.1:8080"} for number in range(512)]
    nodes = read(labelled(annotations={RECORD: record(*same)})).nodes
    assert [one.id for one in nodes] == ["n0"]
    ports = [{"id": f"n{port}", "address": f"10.0.0.1:{port}"} for port in range(8080, 8580)]
    nodes = read(labelled(annotations={RECORD: record(*ports)})).nodes
    assert [one.address for one in nodes] == [f"10.0.0.1:{port}" for port in range(8080, 8088)]
    spelled = [{"id": "a", "address": "[fd00::1]:80"}, {"id": "b", "address": "[fd00:0::1]:80"}]
    six = pod(
        "six", "fd00::1", labels=labelled()["metadata"]["labels"], annotations={RECORD: record(*spelled)}
    )
    assert len(read(six).nodes) == 1


@pytest.mark.parametrize("zone", ["z" * 254, "a\nb", "", 7, None, ["eu"]])
def test_a_zone_that_is_none_is_left_out(zone: Any) -> None:
    for given in (None, {RECORD: record(node())}):
        (found,) = read(labelled(labels={ZONE: zone}, annotations=given)).nodes
        assert found.metadata == {"protocol": "grpc"}


def test_a_record_too_full_for_the_zone_stays_a_node() -> None:
    full = {f"k{number}": "v" for number in range(127)}
    one = labelled(labels={ZONE: "eu-1a"}, annotations={RECORD: record(node(protocol="grpc", **full))})
    (found,) = read(one).nodes
    assert found.metadata == {"protocol": "grpc", **full}


def test_a_labelled_pods_annotation_says_how_often_it_may_be_pinged() -> None:
    for text, seconds in (("10s", 10), ("always", None), ("9" * 10_000, None)):
        (found,) = read(labelled(annotations={"micro.mu/metadata-keepalive": text})).nodes
        assert ping_interval(found.metadata) == seconds


def test_a_label_of_another_value_is_none() -> None:
    assert read(pod(labels={SELECTOR: "no"})).why == "no label"
    assert read(pod()).why == "no label"


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ({"http": 8080, "grpc-web": 8081}, "(there are http 8080, grpc-web 8081)"),
        ({"": 8080}, "(there are unnamed 8080)"),
        ({}, "(they declare none)"),
    ],
)
def test_a_labelled_pod_without_a_port_named_grpc_says_which_it_has(ports: dict[str, int], said: str) -> None:
    found = read(labelled(ports=ports))
    assert found.why == "no port"
    assert found.text.endswith(said)


def test_the_port_may_be_any_containers_and_a_sidecars() -> None:
    one = labelled(ports={"http": 80})
    grpc = [{"name": "grpc", "containerPort": 7000}]
    one["spec"]["containers"].append({"name": "second", "ports": grpc})
    assert grpc_port(one, "greeter") == 7000
    one["spec"]["containers"].pop()
    one["spec"]["initContainers"] = [{"name": "setup", "ports": grpc}]
    assert grpc_port(one, "greeter") is None  # it has ended when the pod is Ready
    one["spec"]["initContainers"][0]["restartPolicy"] = "Always"
    assert grpc_port(one, "greeter") == 7000


def test_a_labelled_pod_that_has_no_address_yet_does_not_count() -> None:
    assert read(labelled(ip="")).why == "no address"


def test_ipv6_and_both_families() -> None:
    assert read(labelled(ip="fd00::1")).nodes[0].address == "[fd00::1]:8080"
    both = labelled(ip="10.0.0.1", ips=["10.0.0.1", "fd00::1"])
    assert [one.address for one in read(both).nodes] == ["10.0.0.1:8080"]  # once: it is one pod
    assert addresses_of(both) == ("10.0.0.1", "fd00::1")


def test_metadata_beyond_all_measure_is_refused() -> None:
    many = {f"micro.mu/metadata-{number}": "x" for number in range(1000)}
    assert read(labelled(annotations=many)).why == "bad annotation"


# Registered


def test_a_record_is_the_nodes_it_lists() -> None:
    found = read(registered(record(node("10.0.0.1:7000"), {**node("10.0.0.1:7001"), "id": "greeter-2"})))
    assert [(one.id, one.address) for one in found.nodes] == [
        ("greeter-1", "10.0.0.1:7000"),
        ("greeter-2", "10.0.0.1:7001"),
    ]
    assert found.registered


def test_the_record_wins_over_the_labels() -> None:
    found = read(registered(record(node("10.0.0.1:7000")), ports={"grpc": 8080}))
    assert [one.address for one in found.nodes] == ["10.0.0.1:7000"]


def test_an_empty_record_is_none() -> None:
    found = read(registered("", uid="u-1"))
    assert [one.id for one in found.nodes] == ["u-1"]
    assert read(registered("", ports={})).why == "no port"


@pytest.mark.parametrize("text", ["{", "null", "[]", record(node(""))])
def test_a_bad_record_is_not_mended_by_labels_and_is_told(text: str) -> None:
    found = read(registered(text))
    assert found.why == "bad annotation"
    with pytest.raises(ValueError, match=RECORD):
        PodReader("greeter")(registered(text))


def test_a_record_of_another_name_under_the_same_label_is_the_other_services() -> None:
    text = record(node(), name="a b")
    one = pod(labels={"micro.mu/selector-a_b": "service"}, annotations={"micro.mu/service-a_b": text})
    assert PodReader("a_b").read(one).why == "other service"
    assert PodReader("a_b")(one) is None  # nobody did anything wrong
    assert len(PodReader("a b").read(one).nodes) == 1


@pytest.mark.parametrize(
    ("address", "mine"),
    [
        ("10.0.0.1:80", True),
        ("[fd00::1]:80", True),
        ("[fd00:0:0::0001]:80", True),
        ("[FD00::1]:80", True),
        ("10.0.0.2:80", False),
        ("10.0.0.10:80", False),
        ("0.0.0.0:80", False),
        ("127.0.0.1:80", False),
        ("[fd00::2]:80", False),
        ("[::ffff:10.0.0.1]:80", False),
        ("greeter.shop:80", False),
    ],
)
def test_only_an_address_the_pod_really_has_counts(address: str, mine: bool) -> None:
    one = registered(record(node(address)), ips=["10.0.0.1", "fd00::1"])
    found = read(one)
    assert bool(found.nodes) is mine
    if not mine:
        assert found.why == "foreign address"
        with pytest.raises(ValueError, match=r"it has 10\.0\.0\.1, fd00::1"):
            PodReader("greeter")(one)


def test_a_foreign_address_beside_an_own_one_is_left_out() -> None:
    found = read(registered(record(node("10.0.0.9:80"), {**node(), "id": "mine"})))
    assert [one.id for one in found.nodes] == ["mine"]


def two_ports(**annotations: str) -> dict[str, Any]:
    """A pod of two services; both containers call their port grpc."""
    both = {**LABELS, "micro.mu/selector-front": "service"}
    one = pod(labels=both, annotations={f"micro.mu/port-{key}": text for key, text in annotations.items()})
    second = {
        "name": "front",
        "ports": [{"name": "grpc", "containerPort": 9090}, {"name": "web", "containerPort": 80}],
    }
    one["spec"]["containers"].append(second)
    return one


def test_of_two_ports_named_grpc_an_annotation_names_the_right_one() -> None:
    def ports(one: dict[str, Any]) -> list[str]:
        return [PodReader(service).read(one).nodes[0].address for service in ("greeter", "front")]

    assert ports(two_ports(front="9090")) == ["10.0.0.1:8080", "10.0.0.1:9090"]
    assert ports(two_ports(front="web")) == ["10.0.0.1:8080", "10.0.0.1:80"]
    unsaid = two_ports()
    assert ports(unsaid) == ["10.0.0.1:8080", "10.0.0.1:8080"]
    assert "2 ports are named grpc (8080, 9090)" in PodReader("front").read(unsaid).doubt
    assert PodReader("front").read(two_ports(front="9090")).doubt == ""
    assert read(pod(labels=LABELS)).doubt == ""


@pytest.mark.parametrize("said", ["0", "65536", "1" * 400, "nothing", "٣", "9090x"])
def test_an_annotation_that_names_no_port_is_told(said: str) -> None:
    reading = PodReader("front").read(two_ports(front=said))
    assert reading.why == "no port"
    assert "annotation micro.mu/port-front names the port" in reading.text


def test_a_udp_port_named_grpc_does_not_count() -> None:
    one = pod(labels=LABELS)
    (port,) = one["spec"]["containers"][0]["ports"]
    port["protocol"] = "UDP"
    assert (read(one).why, read(one).nodes) == ("no port", ())
    assert "grpc 8080/UDP" in read(one).text


def test_an_evicted_pod_says_why_it_has_ended() -> None:
    one = pod(labels=LABELS, phase="Failed")
    one["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
    assert read(one).text == "it has ended (Failed: Evicted: The node was low on resource: memory.)"


@pytest.mark.parametrize(
    ("metadata", "counts"),
    [
        ({"protocol": "grpc"}, True),
        ({"protocol": ""}, True),
        ({"zone": "a"}, True),
        ({"protocol": "http"}, False),
        ({"protocol": "mucp"}, False),
        ({"topic": "news"}, False),
        ({"topic": "news", "protocol": "grpc"}, True),
    ],
)
def test_nodes_of_another_protocol_and_subscribers_are_listed_and_do_not_count(
    metadata: dict[str, str], counts: bool
) -> None:
    one = registered(record(node(**metadata)))
    found = read(one)
    assert [listed.metadata for listed in found.nodes] == [metadata]
    assert PodReader("greeter")(one) == found.nodes
    assert (found.why == "") is counts
    if not counts:
        assert found.why == "other protocol"
        elsewhere = registered(record(node("10.0.0.9:80", **metadata)))
        assert PodReader("greeter")(elsewhere) is None
        beside = registered(record(node(**metadata), {**node(), "id": "mine"}))
        assert read(beside).why == ""
        assert len(read(beside).nodes) == 2


def test_several_services_on_one_pod_are_read_apart() -> None:
    one = pod(
        labels={**LABELS, "micro.mu/selector-front": "service", "micro.mu/selector-plain": "service"},
        annotations={
            RECORD: record(node("10.0.0.1:7000")),
            "micro.mu/service-front": record(node("10.0.0.1:7001"), name="front"),
            "micro.mu/service-gone": "",
            "micro.mu/service-bad": "{",
        },
    )
    assert sorted(services_of(one)) == ["front", "greeter", "plain"]
    ports = {name: PodReader(name).read(one).nodes[0].address for name in services_of(one)}
    assert ports == {"front": "10.0.0.1:7001", "greeter": "10.0.0.1:7000", "plain": "10.0.0.1:8080"}


# Objects of the wrong shape


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"metadata": None, "status": None, "spec": None},
        {"metadata": [], "status": "x", "spec": 1},
        {"metadata": {"labels": [], "annotations": "x"}, "status": {"conditions": {}, "podIPs": [None, 1]}},
        {
            "metadata": {"labels": LABELS, "annotations": {RECORD: 5}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "podIP": 5,
                "podIPs": [{"ip": 6}],
            },
        },
        {
            "metadata": {"labels": LABELS},
            "spec": {"containers": [None, {"ports": [None, {"name": "grpc", "containerPort": "80"}]}]},
            "status": {"conditions": [None, {"type": "Ready", "status": "True"}], "podIP": "10.0.0.1"},
        },
    ],
)
def test_a_pod_of_the_wrong_shape_does_not_count(broken: dict[str, Any]) -> None:
    found = read(broken)
    assert found.nodes == ()
    assert found.why


def test_equal_readers_share_a_watch() -> None:
    assert PodReader("greeter") == PodReader("greeter")
    assert PodReader("greeter") != PodReader("front")
    assert hash(PodReader("greeter")) == hash(PodReader("greeter"))
