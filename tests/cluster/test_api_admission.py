"""deploy/rbac-self-register on a real API server: what an account may change that may patch pods.

An account of a self-registering service has the role, whose mark puts it under the first policy. An
account that may patch pods and has no mark is under the second.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from pymicro.nodes.keys import record_key, san
from pymicro.nodes.node import Endpoint, Node
from pymicro.nodes.record import dump_record
from tests.cluster import pods
from tests.cluster.api import Refused
from tests.cluster.plane import ControlPlane, eventually
from tests.fakes.pods import pod
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

ROLE = "pymicro-self-register"
ACCOUNT = "greeter"
NAME = {"app.kubernetes.io/name": "greeter"}
KEY = "micro.mu/service-greeter"
# What pymicro itself writes at most.
LONGEST = 128 << 10

# What pymicro and go-micro write.
REGISTER = {
    "metadata": {
        "labels": {"micro.mu/type": "service", "micro.mu/selector-greeter": "service"},
        "annotations": {"micro.mu/service-greeter": pods.record("10.0.0.1:8080")},
    }
}
DEREGISTER = {
    "metadata": {
        "labels": {"micro.mu/type": "service", "micro.mu/selector-greeter": None},
        "annotations": {"micro.mu/service-greeter": None},
    }
}


def labels(**changes: str | None) -> dict[str, Any]:
    return {"metadata": {"labels": changes}}


def annotations(**changes: str | None) -> dict[str, Any]:
    return {"metadata": {"annotations": changes}}


class Own:
    """A pod of an account, and an API client with its token."""

    numbers = itertools.count()

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        *,
        account: str = ACCOUNT,
        own: str | None = "greeter",
        ips: tuple[str, ...] = ("10.0.0.1",),
    ) -> None:
        document = pod(
            f"greeter-{next(self.numbers)}",
            ips[0] if ips else "",
            ips=ips,
            namespace=namespace,
            labels={**NAME, "team": "a"},
            annotations={"note": "x"} if own is None else {"note": "x", "micro.mu/self-register": own},
        )
        document["spec"]["serviceAccountName"] = account
        self.object = pods.create(plane.api, document)
        self.name = self.object["metadata"]["name"]
        self.path = pods.path(self.object)
        self.api = plane.api.as_token(plane.token_for(namespace, account, pod=self.object))

    def patch(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.api.patch(self.path, changes))

    def record(self, text: str) -> dict[str, Any]:
        """Write this as the record of its service."""
        return self.patch(annotations(**{KEY: text}))


@pytest.fixture(scope="module")
def fenced(plane: ControlPlane) -> str:
    """A namespace with the role and the policies, which are in force, and an account that has the role."""
    namespace = plane.namespace()
    plane.kubectl("-n", namespace, "apply", "-k", str(ROOT / "deploy/rbac-self-register"))
    plane.bind(namespace, ACCOUNT, ROLE)
    plane.account(namespace, "unmarked", verbs="patch", resource="pods")
    for account, policy in ((ACCOUNT, "pymicro-self-register"), ("unmarked", "pymicro-unmarked-patch")):
        in_force(Own(plane, namespace, account=account), policy)
    return namespace


def in_force(probe: Own, policy: str) -> None:
    """Wait until a policy refuses what it should. It is compiled some time after it was accepted."""
    tries = itertools.count()

    def refuses() -> bool:
        try:
            # A new value each time: a patch that changes nothing is nobody's business.
            probe.patch(labels(foreign=str(next(tries))))
        except Refused as exc:
            return f"ValidatingAdmissionPolicy '{policy}'" in str(exc)
        return False

    eventually(f"{policy} refuses a foreign label", refuses)


@pytest.fixture
def own(plane: ControlPlane, fenced: str) -> Own:
    return Own(plane, fenced)


def refused(patch: Callable[[], object], policy: str = "pymicro-self-register") -> str:
    """What the policy says to it."""
    with pytest.raises(Refused) as caught:
        patch()
    assert caught.value.status == 403
    said = str(caught.value.answer["message"])
    assert f"ValidatingAdmissionPolicy '{policy}'" in said
    # It is refused for what it is, and not because the policy could not be worked out.
    assert "denied request: " in said
    assert "expression" not in said
    return said


def test_a_pod_registers_itself_and_takes_it_back(own: Own) -> None:
    meta = own.patch(REGISTER)["metadata"]
    assert meta["labels"]["micro.mu/selector-greeter"] == "service"
    assert "greeter-10.0.0.1:8080" in meta["annotations"]["micro.mu/service-greeter"]
    meta = own.patch(DEREGISTER)["metadata"]
    assert meta["labels"] == {**NAME, "team": "a", "micro.mu/type": "service"}
    assert meta["annotations"] == {"note": "x", "micro.mu/self-register": "greeter"}


def test_the_null_status_in_go_micros_patch_is_accepted(own: Own) -> None:
    assert own.patch({**REGISTER, "status": None})["status"]["podIP"] == "10.0.0.1"


def test_another_pod_is_refused(plane: ControlPlane, fenced: str, own: Own) -> None:
    other = Own(plane, fenced)
    said = refused(lambda: own.api.patch(other.path, REGISTER))
    assert f"changes its own pod only, and this is {other.name}" in said


def test_a_successor_of_the_same_name_is_another_pod(plane: ControlPlane, fenced: str, own: Own) -> None:
    # The API server now remembers for ten seconds that this token is good.
    own.patch(REGISTER)
    pods.delete(plane.api, own.object)
    successor = pods.create(plane.api, pod(own.name, namespace=fenced, labels=NAME))
    with pytest.raises(Refused) as caught:
        own.patch(REGISTER)
    # 401 only where we were slower than that.
    assert caught.value.status in {401, 403}
    assert "micro.mu/type" not in plane.api.get(pods.path(successor))["metadata"]["labels"]


def test_a_token_bound_to_no_pod_is_refused(plane: ControlPlane, fenced: str, own: Own) -> None:
    unbound = plane.api.as_token(plane.token_for(fenced, ACCOUNT))
    assert "changes its own pod only" in refused(lambda: unbound.patch(own.path, REGISTER))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"team": "b"}, id="another value"),
        pytest.param({"team": None}, id="removed"),
        pytest.param({"tier": "front"}, id="a new key"),
        pytest.param({"micro.mu/selector-payments": "service"}, id="another service"),
        pytest.param({"micro.mu/other": "service"}, id="another key of ours"),
        pytest.param({"app.kubernetes.io/name": "payments"}, id="the name by which Services choose"),
    ],
)
def test_another_label_is_refused(own: Own, changes: dict[str, str | None]) -> None:
    said = refused(lambda: own.patch(labels(**changes)))
    assert "changes no label but micro.mu/type, micro.mu/selector-greeter" in said


@pytest.mark.parametrize("key", ["micro.mu/type", "micro.mu/selector-greeter"])
def test_its_own_labels_have_one_value(own: Own, key: str) -> None:
    assert "and these to: service" in refused(lambda: own.patch(labels(**{key: "something"})))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"note": "y"}, id="another value"),
        pytest.param({"note": None}, id="removed"),
        pytest.param({"sidecar.istio.io/inject": "true"}, id="a new key"),
        pytest.param({"micro.mu/service-payments": "{}"}, id="another service"),
        pytest.param({"micro.mu/metadata-zone": "b"}, id="metadata of labelled nodes"),
        pytest.param({"micro.mu/self-register": "greeter,payments"}, id="the list of its own services"),
    ],
)
def test_another_annotation_is_refused(own: Own, changes: dict[str, str | None]) -> None:
    said = refused(lambda: own.patch(annotations(**changes)))
    assert "changes no annotation but micro.mu/service-greeter" in said


def test_one_foreign_key_among_its_own_refuses_all(plane: ControlPlane, own: Own) -> None:
    mixed = {"metadata": {**REGISTER["metadata"], "labels": {**REGISTER["metadata"]["labels"], "team": "b"}}}
    refused(lambda: own.patch(mixed))
    assert "micro.mu/type" not in plane.api.get(own.path)["metadata"]["labels"]


def test_another_image_is_refused(own: Own) -> None:
    spec = {"spec": {"containers": [{"name": "main", "image": "evil:1"}]}}
    assert "changes nothing in spec" in refused(lambda: own.patch(spec))


def test_a_deadline_that_would_end_the_pod_is_refused(own: Own) -> None:
    changes = {"spec": {"activeDeadlineSeconds": 1}}
    assert "changes nothing in spec" in refused(lambda: own.patch(changes))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"finalizers": ["example.com/never"]}, id="finalizers"),
        pytest.param(
            {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}]},
            id="owners",
        ),
    ],
)
def test_other_metadata_is_refused(own: Own, changes: dict[str, Any]) -> None:
    said = refused(lambda: own.patch({"metadata": changes}))
    assert "changes nothing in metadata but labels and annotations" in said


def test_a_pod_may_list_its_services_in_its_template(plane: ControlPlane, fenced: str) -> None:
    own = Own(plane, fenced, own="payments, go.micro.srv.x")
    for service in ("payments", "go.micro.srv.x"):
        own.patch(
            {
                "metadata": {
                    "labels": {"micro.mu/type": "service", f"micro.mu/selector-{service}": "service"},
                    "annotations": {f"micro.mu/service-{service}": pods.record("10.0.0.1:80", name=service)},
                }
            }
        )
    # The list replaces the name; it does not add to it.
    assert "micro.mu/selector-go.micro.srv.x" in refused(lambda: own.patch(REGISTER))


def test_a_pod_without_a_list_registers_nothing_whatever_its_name(plane: ControlPlane, fenced: str) -> None:
    own = Own(plane, fenced, own=None)
    assert own.object["metadata"]["labels"]["app.kubernetes.io/name"] == "greeter"
    said = refused(lambda: own.patch(REGISTER))
    assert "the annotation micro.mu/self-register in its template" in said
    assert "it lists none" in refused(lambda: own.record("{}"))


@pytest.mark.parametrize("listed", ["", " , ,"])
def test_an_empty_list_is_none(plane: ControlPlane, fenced: str, listed: str) -> None:
    own = Own(plane, fenced, own=listed)
    assert "it lists none" in refused(lambda: own.record("{}"))


# The value of a record


def as_go_writes(*addresses: str, key: str = "address", name: str = "greeter") -> str:
    nodes = [{"id": f"n{number}", key: address} for number, address in enumerate(addresses)]
    return json.dumps({"name": name, "version": "1", "nodes": nodes}, separators=(",", ":"))


def with_nodes(nodes: str) -> str:
    """A record with this text in its list of nodes."""
    return f'{{"name":"greeter","nodes":[{nodes}]}}'


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(as_go_writes("10.0.0.2:8080"), id="another pod's"),
        pytest.param(as_go_writes("10.0.0.1:8080", "10.0.0.2:8080"), id="another one among its own"),
        pytest.param(as_go_writes("10.0.0.10:8080"), id="one that begins like its own"),
        pytest.param(as_go_writes("10.0.0.1:8080@10.0.0.2:80"), id="its own as a user"),
        pytest.param(as_go_writes("10.0.0.1:080808"), id="no port"),
        pytest.param(as_go_writes("payments.prod.svc:8080"), id="a name"),
        pytest.param(as_go_writes("unix:/run/x.sock"), id="a socket"),
        pytest.param(as_go_writes("[fd00::1]:8080"), id="of the other family"),
        pytest.param(as_go_writes(""), id="none"),
        pytest.param(as_go_writes("10.0.0.2:8080", key="Address"), id="as Go reads it"),
        pytest.param(
            as_go_writes("10.0.0.2:8080", key="addre\u017f\u017f").replace("\\u017f", "\u017f"), id="long s"
        ),
        pytest.param(with_nodes('{"address" :\t\r\n "10.0.0.2:80"}'), id="with spaces"),
        pytest.param(with_nodes('{"address":"10.0.0.1:80","address":"10.0.0.2:80"}'), id="twice"),
        pytest.param(
            with_nodes('{"a\\"address":"10.0.0.1:80","address":"10.0.0.2:80"}'), id="after another key"
        ),
        pytest.param(with_nodes('{"address":"10.0.0.1\\u003a80"}'), id="its own, encoded"),
        pytest.param(with_nodes('{"address":"10.0.0.1:80\\"","address":"10.0.0.2:80"}'), id="after a quote"),
    ],
)
def test_a_foreign_address_is_refused(own: Own, record: str) -> None:
    said = refused(lambda: own.record(record))
    assert "record names its own addresses only: 10.0.0.1" in said


@pytest.mark.parametrize(
    "key", ["\\u0061ddress", "addr\\u0065ss", "ADDRES\\u0053", "addres\\u017F", "\\u006eodes"]
)
def test_a_key_that_hides_its_letters_is_refused(own: Own, key: str) -> None:
    hidden = with_nodes(f'{{"{key}":"10.0.0.2:8080"}}')
    assert "spells no letter as a" in refused(lambda: own.record(hidden))


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(as_go_writes("10.0.0.1:80", name="payments"), id="another"),
        pytest.param(as_go_writes("10.0.0.1:80", name="greeter2"), id="a longer one"),
        pytest.param(as_go_writes("10.0.0.1:80", name="Greeter"), id="in capitals"),
        pytest.param('{"version":"1","name":"greeter"}', id="not first"),
        pytest.param('{"Name":"greeter"}', id="in another case"),
        pytest.param('{"name":null}', id="null"),
        pytest.param("{}", id="none"),
        pytest.param("", id="empty"),
        pytest.param('[{"name":"greeter"}]', id="in a list"),
    ],
)
def test_a_record_of_another_service_is_refused(own: Own, record: str) -> None:
    """go-micro's watch takes the service from the record, whatever its key."""
    assert 'record begins with {"name":' in refused(lambda: own.record(record))


@pytest.mark.parametrize("key", ["name", "NAME"])
def test_a_second_name_is_refused(own: Own, key: str) -> None:
    twice = f'{{"name":"greeter","nodes":[] , "{key}" : "payments"}}'
    assert 'has a "name" in first place only' in refused(lambda: own.record(twice))
    own.record(twice.replace(f' "{key}"', ' "title"'))


@pytest.mark.parametrize("service", ["go.micro.srv.greeter", "a/b", "a_b", "grüße", "x__y"])
def test_a_service_whose_name_no_label_can_spell_registers_all_the_same(
    plane: ControlPlane, fenced: str, service: str
) -> None:
    own = Own(plane, fenced, own=san(service))
    key = record_key(service)
    own.patch(annotations(**{key: dump_record([Node("a", "10.0.0.1:80", service, "1")])}))
    for other in (service.replace("_", ""), service.replace(".", "x"), f"{service}s", service[:-1]):
        if other != service:
            record = as_go_writes("10.0.0.1:80", name=other)
            assert "record begins with" in refused(lambda text=record: own.patch(annotations(**{key: text})))


def test_the_same_address_in_another_word_is_no_address(own: Own) -> None:
    # A text that speaks of addresses, a field of that name, and what Go escapes.
    value = {"name": "address", "type": "string", "values": []}
    endpoint = {"name": "Greeter.Hello", "request": value, "metadata": {"doc": 'say "address":"10.0.0.2"'}}
    record = {
        "name": "greeter",
        "endpoints": [endpoint],
        "nodes": [{"id": "a", "address": "10.0.0.1:8080", "metadata": {"x": "<&>"}}],
    }
    text = json.dumps(record).replace("<&>", "\\u003c\\u0026\\u003e")
    assert own.record(text)["metadata"]["annotations"][KEY] == text


@pytest.mark.parametrize("address", ["10.0.0.1:8080", "[fd00::1]:8080", "10.0.0.1"])
def test_each_address_of_the_pod_is_its_own(plane: ControlPlane, fenced: str, address: str) -> None:
    own = Own(plane, fenced, ips=("10.0.0.1", "fd00::1"))
    own.record(as_go_writes(address))
    said = refused(lambda: own.record(as_go_writes("10.0.0.2:8080")))
    assert "its own addresses only: 10.0.0.1, [fd00::1]" in said


def test_a_pod_that_has_no_address_yet_may_register(plane: ControlPlane, fenced: str) -> None:
    own = Own(plane, fenced, ips=())
    own.patch(REGISTER)
    pods.set_status(plane.api, own.object, {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]})
    # What it wrote stays, and pymicro's clients find it out; it cannot be written again.
    said = refused(lambda: own.record(as_go_writes("10.0.0.1:9090")))
    assert "its own addresses only: 10.0.0.9" in said
    own.patch(DEREGISTER)


def test_a_record_has_as_many_nodes_as_clients_take_of_a_pod(own: Own) -> None:
    own.record(as_go_writes(*(f"10.0.0.1:{port}" for port in range(8080, 8088))))
    for count in (9, 512):
        many = as_go_writes(*(f"10.0.0.1:{8080 + number}" for number in range(count)))
        assert "has at most 8 nodes" in refused(lambda text=many: own.record(text))


def padded(size: int, filling: str) -> str:
    """A record of so many bytes."""
    record = {"name": "greeter", "nodes": [{"id": "a", "address": "10.0.0.1:80"}], "metadata": {"x": ""}}
    room = size - len(json.dumps(record).encode())
    record["metadata"] = {"x": filling * (room // len(filling.encode()))}
    text = json.dumps(record, ensure_ascii=False)
    return text + " " * (size - len(text.encode()))


@pytest.mark.parametrize("filling", ["x", "é", '"address":"'.replace('"', "'")])
def test_a_record_has_at_most_the_bytes_that_we_write(own: Own, filling: str) -> None:
    text = padded(LONGEST, filling)
    assert len(text.encode()) == LONGEST
    own.record(text)
    for size in (LONGEST + 1, 240 << 10):
        said = refused(lambda size=size: own.record(padded(size, filling)))
        assert "has at most 131072 bytes" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"address":"10.0.0.2:80",', "at most 8 nodes"),
        ('"address":"10.0.0.1:80"\\u003e' * 2, "at most 8 nodes"),
        ("\\u0061", "spells no letter"),
        ("\\u006", "spells no letter"),
        (',"name"', ""),
        (',"name":', 'has a "name" in first place only'),
        ('"address"', ""),
        ('"address":', "at most 8 nodes"),
        ('"address": 1,', ""),
        ('"', ""),
        ("\\u00", ""),
    ],
)
def test_no_value_is_too_much_work_for_the_policy(own: Own, text: str, said: str) -> None:
    """The API server stops an expression that takes too long, and the patch would be refused for that."""
    begin = '{"name":"greeter",'
    most = begin + text * ((LONGEST - len(begin)) // len(text))
    if said:
        assert said in refused(lambda: own.record(most))
    else:
        own.record(most)
    longest = text * ((250 << 10) // len(text))
    assert "has at most 131072 bytes" in refused(lambda: own.record(longest))


def test_many_services_are_not_too_much_work_either(plane: ControlPlane, fenced: str) -> None:
    services = [f"service-{number}" for number in range(100)]
    own = Own(plane, fenced, own=",".join(services))
    room = (240 << 10) // len(services)
    texts = {}
    for service in services:
        record = as_go_writes(*["10.0.0.1:8080"] * 8, name=service)
        texts[f"micro.mu/service-{service}"] = record + " " * (room - len(record))
    keys = {f"micro.mu/selector-{service}": "service" for service in services}
    own.patch({"metadata": {"labels": keys, "annotations": texts}})
    foreign = {f"micro.mu/service-{services[-1]}": as_go_writes("10.0.0.2:8080", name=services[-1])}
    assert "names its own addresses only" in refused(lambda: own.patch(annotations(**foreign)))


def test_the_longest_record_that_we_write_is_accepted(own: Own) -> None:
    odd = {"doc": 'A "quoted" \\ text, <b>&amp;</b>, \t\n\x7f, \u2028, üß, address: x', "address-of": "y"}
    endpoints = tuple(Endpoint(f"Greeter.Method{number:04}", metadata=odd) for number in range(700))
    text = dump_record([Node("a", "10.0.0.1:8080", "greeter", "1.0.0", {"protocol": "grpc"}, endpoints)])
    assert 100_000 < len(text.encode()) <= LONGEST
    assert own.record(text)["metadata"]["annotations"][KEY] == text


class Writer:
    """Writes records in all the ways that JSON allows, and some that only Go reads so."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # Most records have one or two oddities, so that few are refused for more than one reason.
        self.odd = self.random.choice([0.0, 0.04, 0.1])

    def record(self) -> str:
        service = "payments" if self.rarely() else "greeter"
        pairs = [self.text("name") + self.colon() + self.text(service)]
        pairs += [self.pair(0) for _ in range(self.random.choice([0, 1, 2, 3, 3, 12]))]
        if self.rarely():
            self.random.shuffle(pairs)
        return self.object(pairs)

    def pair(self, depth: int) -> str:
        key = self.random.choice(["nodes", "endpoints", "address", "address", "address", "id"])
        if self.rarely():
            key = self.random.choice(
                ["Address", "ADDRESS", "addre\u017f\u017f", "name", "Name", 'a"address', "addres"]
            )
        return self.text(key) + self.colon() + self.value(depth + 1)

    def value(self, depth: int) -> str:
        kind = self.random.randint(0, 6) if depth < 4 else 0
        if kind == 0 or kind > 3:
            texts = ["10.0.0.1:80", "10.0.0.1:8080", "10.0.0.1"]
            if self.rarely():
                texts = [
                    "10.0.0.2:80",
                    "10.0.0.1:80@x",
                    "10.0.0.1:80\\",
                    'say "address":"10.0.0.2"',
                    "payments",
                    "greeter",
                    "",
                ]
            return self.text(self.random.choice(texts))
        if kind == 1:
            return self.random.choice(["null", "1", "true"])
        if kind == 2:
            return "[" + ",".join(self.value(depth + 1) for _ in range(self.random.randint(0, 4))) + "]"
        return self.object([self.pair(depth) for _ in range(self.random.randint(0, 4))])

    def object(self, pairs: list[str]) -> str:
        return "{" + f"{self.space()},{self.space()}".join(pairs) + "}"

    def text(self, text: str) -> str:
        written = json.dumps(text, ensure_ascii=self.rarely())[1:-1]
        if self.rarely() and "\\" not in written:
            place = self.random.randrange(len(written) + 1)
            for letter in written[place : place + 1]:
                written = f"{written[:place]}\\u{ord(letter):04x}{written[place + 1 :]}"
        return f'"{written}"'

    def colon(self) -> str:
        return f"{self.space()}:{self.space()}"

    def space(self) -> str:
        return self.random.choice(["", "", "", " ", "\n\t", "\r"])

    def rarely(self) -> bool:
        return self.random.random() < self.odd


def test_what_is_accepted_names_no_foreign_address_however_it_is_read(own: Own) -> None:
    """The policy has no parser of JSON. So its expressions are held against one."""
    accepted, refusals = 0, 0
    for seed in range(800):
        text = Writer(seed).record()
        try:
            own.record(text)
        except Refused as exc:
            if "denied request: a self-registering pod's record" not in str(exc):
                raise
            refusals += 1
            continue
        accepted += 1
        addresses: list[object] = []

        def read(pairs: list[tuple[str, object]], into: list[object] = addresses) -> list[tuple[str, object]]:
            into += [value for key, value in pairs if key.casefold() == "address"]
            return pairs

        top = json.loads(text, object_pairs_hook=read)
        named = [address for address in addresses if isinstance(address, str)]
        assert set(named) <= {"10.0.0.1", "10.0.0.1:80", "10.0.0.1:8080"}, text
        assert len(named) <= 8, text
        # All of them, since the last one counts here and another one elsewhere.
        assert [value for key, value in top if key.casefold() == "name"] == ["greeter"], text
    assert min(accepted, refusals) > 40


# Others


def test_an_administrator_is_not_fenced(plane: ControlPlane, own: Own) -> None:
    assert plane.api.patch(own.path, labels(team="b"))["metadata"]["labels"]["team"] == "b"


@pytest.mark.parametrize("verbs", ["update,patch", "*"])
def test_an_account_that_patches_pods_for_other_reasons_has_update_and_is_not_fenced(
    plane: ControlPlane, fenced: str, own: Own, verbs: str
) -> None:
    name = f"operator-{secrets.token_hex(3)}"
    operator = plane.account(fenced, name, verbs=verbs, resource="pods")
    meta = operator.patch(own.path, labels(team="c", **{"micro.mu/type": "service"}))["metadata"]
    assert meta["labels"]["team"] == "c"


def test_an_account_that_may_do_everything_is_not_fenced(plane: ControlPlane, fenced: str, own: Own) -> None:
    # The right that marks the role is among everything.
    deployer = plane.account(fenced, "deployer", verbs="*", resource="*", group="*")
    assert deployer.patch(own.path, labels(team="d"))["metadata"]["labels"]["team"] == "d"


def test_a_person_with_the_role_is_not_fenced(plane: ControlPlane, fenced: str, own: Own) -> None:
    plane.kubectl("-n", fenced, "create", "rolebinding", "ada", f"--role={ROLE}", "--user=ada")
    asked = {"namespace": fenced, "verb": "patch", "resource": "pods"}
    eventually("ada may patch pods", lambda: plane.may("ada", asked), 10.0)
    meta = plane.api.as_user("ada").patch(own.path, labels(team="e"))["metadata"]
    assert meta["labels"]["team"] == "e"


def test_without_the_role_nothing_can_be_patched(plane: ControlPlane, fenced: str) -> None:
    own = Own(plane, fenced, account="default")
    with pytest.raises(Refused) as caught:
        own.patch(REGISTER)
    assert caught.value.status == 403
    assert 'cannot patch resource "pods"' in str(caught.value)


def test_a_right_to_write_the_status_is_no_way_around(plane: ControlPlane, fenced: str) -> None:
    account = f"status-{secrets.token_hex(3)}"
    plane.bind(fenced, account, ROLE)
    plane.allow(fenced, account, verbs="patch", resource="pods/status")
    own = Own(plane, fenced, account=account)
    said = refused(lambda: own.api.patch(f"{own.path}/status", labels(team="b")))
    assert "changes no label but" in said


# Accounts that may patch pods and have no mark


class TestUnmarked:
    """An account with `patch` from a role of somebody else's."""

    POLICY = "pymicro-unmarked-patch"

    @pytest.fixture
    def unmarked(self, plane: ControlPlane, fenced: str) -> Own:
        return Own(plane, fenced, account="unmarked")

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param(REGISTER, id="to register itself"),
            pytest.param(labels(**{"micro.mu/selector-payments": "service"}), id="a label"),
            pytest.param(annotations(**{"micro.mu/service-payments": "{}"}), id="a record"),
            pytest.param(annotations(**{"micro.mu/port-greeter": "1"}), id="a port"),
            pytest.param(annotations(**{"micro.mu/self-register": "payments"}), id="the list"),
            pytest.param(annotations(**{"micro.mu/self-register": None}), id="no list"),
        ],
    )
    def test_takes_no_part_in_discovery(
        self, plane: ControlPlane, fenced: str, unmarked: Own, changes: dict[str, Any]
    ) -> None:
        for target in (unmarked, Own(plane, fenced)):
            said = refused(lambda path=target.path: unmarked.api.patch(path, changes), self.POLICY)
            assert "lacks the mark writes nothing of micro.mu/" in said
            assert "bind it to the role pymicro-self-register" in said

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param(labels(team="b"), id="a label"),
            pytest.param({"spec": {"containers": [{"name": "main", "image": "evil:1"}]}}, id="an image"),
            pytest.param({"spec": {"activeDeadlineSeconds": 1}}, id="a deadline"),
            pytest.param({"metadata": {"finalizers": ["example.com/never"]}}, id="finalizers"),
        ],
    )
    def test_changes_annotations_only(self, unmarked: Own, changes: dict[str, Any]) -> None:
        said = refused(lambda: unmarked.patch(changes), self.POLICY)
        assert "changes annotations only" in said
        assert "give it update too" in said

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param(annotations(note="y"), id="an annotation"),
            pytest.param(labels(team="b"), id="a label"),
            pytest.param({"spec": {"containers": [{"name": "main", "image": "evil:1"}]}}, id="an image"),
        ],
    )
    def test_changes_its_own_pod_only(
        self, plane: ControlPlane, fenced: str, unmarked: Own, changes: dict[str, Any]
    ) -> None:
        other = Own(plane, fenced)
        said = refused(lambda: unmarked.api.patch(other.path, changes), self.POLICY)
        assert "changes its own pod only" in said

    def test_writes_other_annotations_on_its_own_pod(self, unmarked: Own) -> None:
        meta = unmarked.patch(annotations(note="y", outputs="z"))["metadata"]
        assert meta["annotations"] == {"note": "y", "outputs": "z", "micro.mu/self-register": "greeter"}

    def test_is_free_where_no_pods_register_themselves(
        self, plane: ControlPlane, fenced: str, unmarked: Own
    ) -> None:
        # Here the policy is in force, and there it is not.
        refused(lambda: unmarked.patch(labels(team="b")), self.POLICY)
        elsewhere = plane.namespace()
        plane.account(elsewhere, "unmarked", verbs="patch", resource="pods")
        free = Own(plane, elsewhere, account="unmarked")
        assert free.patch(REGISTER)["metadata"]["labels"]["micro.mu/type"] == "service"

    @pytest.fixture
    def stranger(self, plane: ControlPlane, fenced: str) -> Iterator[Own]:
        """A pod of another namespace, whose account may patch pods in all."""
        elsewhere = plane.namespace()
        name = f"patches-{secrets.token_hex(3)}"
        plane.kubectl("create", "clusterrole", name, "--verb=patch", "--resource=pods")
        plane.kubectl(
            "create",
            "clusterrolebinding",
            name,
            f"--clusterrole={name}",
            f"--serviceaccount={elsewhere}:default",
        )
        user = f"system:serviceaccount:{elsewhere}:default"
        asked = {"namespace": fenced, "verb": "patch", "resource": "pods"}
        eventually("it may patch pods", lambda: plane.may(user, asked), 10.0)
        yield Own(plane, elsewhere, account="default")
        plane.kubectl("delete", "clusterrole,clusterrolebinding", name)

    def test_of_another_namespace_takes_no_part_either(self, own: Own, stranger: Own) -> None:
        said = refused(lambda: stranger.api.patch(own.path, REGISTER), self.POLICY)
        assert "writes nothing of micro.mu/" in said
        meta = stranger.api.patch(own.path, annotations(note="y"))["metadata"]
        assert meta["annotations"]["note"] == "y"

    @pytest.mark.parametrize("controller", ["job-controller", "replicaset-controller"])
    def test_kubernetes_own_controllers_go_on(self, plane: ControlPlane, own: Own, controller: str) -> None:
        """They may patch pods and not update them: to take a finalizer away, or to adopt a pod."""
        api = plane.api.as_user(f"system:serviceaccount:kube-system:{controller}")
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}
        plane.api.patch(own.path, {"metadata": {"finalizers": ["batch.kubernetes.io/job-tracking"]}})
        changes = {
            "finalizers": None,
            "$deleteFromPrimitiveList/finalizers": ["batch.kubernetes.io/job-tracking"],
            "ownerReferences": [owner],
            "labels": {"team": "f"},
        }
        meta = api.patch(own.path, {"metadata": changes})["metadata"]
        assert "finalizers" not in meta
        assert meta["ownerReferences"] == [owner]


def test_the_type_checker_finds_nothing_in_the_policies(controlled: ControlPlane) -> None:
    """What is not in the schema of a pod would be noticed only when the expression is run."""
    namespace = controlled.namespace()
    folder = ROOT / "deploy/rbac-self-register"
    controlled.kubectl("-n", namespace, "apply", "-k", str(folder))
    wrong = controlled.kubectl("kustomize", str(folder)).stdout
    for old, new in (("name: pymicro-", "name: wrong-"), ("object.spec ==", "object.specs ==")):
        assert old in wrong
        wrong = wrong.replace(old, new)
    controlled.kubectl("-n", namespace, "apply", "-f", "-", stdin=wrong)

    def warnings(name: str) -> list[Any]:
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}"

        def checked() -> dict[str, Any] | None:
            status = controlled.api.get(path).get("status", {})
            return dict(status) if "typeChecking" in status else None

        found = eventually(f"{name} is checked", checked)["typeChecking"]
        return list(found.get("expressionWarnings", []))

    for name in ("self-register", "unmarked-patch"):
        assert warnings(f"pymicro-{name}") == []
        assert "undefined field 'specs'" in str(warnings(f"wrong-{name}"))
    controlled.kubectl("-n", namespace, "delete", "-f", "-", stdin=wrong)
