"""deploy/rbac-self-register on a real API server: what a pod with that account may change, and what not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.cluster import pods
from tests.cluster.api import Refused
from tests.cluster.plane import ControlPlane, eventually
from tests.fakes.pods import pod
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

ACCOUNT = "pymicro-self-register"
NAME = {"app.kubernetes.io/name": "greeter"}

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
    """A pod of the account, and an API client with its token."""

    numbers = itertools.count()

    def __init__(
        self, plane: ControlPlane, namespace: str, *, account: str = ACCOUNT, own: str | None = None
    ) -> None:
        document = pod(
            f"greeter-{next(self.numbers)}",
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


@pytest.fixture(scope="module")
def fenced(plane: ControlPlane) -> str:
    """A namespace with the account, its role and the policy, which is in force."""
    namespace = plane.namespace()
    plane.kubectl("-n", namespace, "apply", "-k", str(ROOT / "deploy/rbac-self-register"))
    probe = Own(plane, namespace)

    tries = itertools.count()

    def in_force() -> bool:
        # A policy is compiled, and a role cached, some time after it was accepted. A new value each
        # time: a patch that changes nothing is nobody's business.
        try:
            probe.patch(labels(foreign=str(next(tries))))
        except Refused as exc:
            return "ValidatingAdmissionPolicy" in str(exc)
        return False

    eventually("the policy refuses a foreign label", in_force)
    return namespace


@pytest.fixture
def own(plane: ControlPlane, fenced: str) -> Own:
    return Own(plane, fenced)


def refused(patch: Callable[[], object]) -> str:
    """What the policy says to it."""
    with pytest.raises(Refused) as caught:
        patch()
    assert caught.value.status == 403
    said = str(caught.value.answer["message"])
    assert "ValidatingAdmissionPolicy 'pymicro-self-register'" in said
    return said


def test_a_pod_registers_itself_and_takes_it_back(own: Own) -> None:
    meta = own.patch(REGISTER)["metadata"]
    assert meta["labels"]["micro.mu/selector-greeter"] == "service"
    assert "greeter-10.0.0.1:8080" in meta["annotations"]["micro.mu/service-greeter"]
    meta = own.patch(DEREGISTER)["metadata"]
    assert meta["labels"] == {**NAME, "team": "a", "micro.mu/type": "service"}
    assert meta["annotations"] == {"note": "x"}


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
        pytest.param(
            {"app.kubernetes.io/name": "payments"}, id="the name that says which service is its own"
        ),
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
                    "annotations": {f"micro.mu/service-{service}": "{}"},
                }
            }
        )
    # The list replaces the name; it does not add to it.
    assert "micro.mu/selector-go.micro.srv.x" in refused(lambda: own.patch(REGISTER))


def test_a_pod_that_says_nothing_of_its_services_registers_none(plane: ControlPlane, fenced: str) -> None:
    own = Own(plane, fenced)
    plane.api.patch(own.path, labels(**{"app.kubernetes.io/name": None}))
    refused(lambda: own.patch(REGISTER))


def test_an_administrator_is_not_fenced(plane: ControlPlane, own: Own) -> None:
    assert plane.api.patch(own.path, labels(team="b"))["metadata"]["labels"]["team"] == "b"


def test_an_account_that_patches_pods_for_other_reasons_is_not_fenced(
    plane: ControlPlane, fenced: str, own: Own
) -> None:
    operator = plane.account(fenced, "operator", verbs="patch", resource="pods")
    meta = operator.patch(own.path, labels(team="c"))["metadata"]
    assert meta["labels"]["team"] == "c"


def test_an_account_that_may_do_everything_is_not_fenced(plane: ControlPlane, fenced: str, own: Own) -> None:
    # The right that marks the role is among everything.
    deployer = plane.account(fenced, "deployer", verbs="*", resource="*", group="*")
    assert deployer.patch(own.path, labels(team="d"))["metadata"]["labels"]["team"] == "d"


def test_a_person_with_the_role_is_not_fenced(plane: ControlPlane, fenced: str, own: Own) -> None:
    plane.kubectl("-n", fenced, "create", "rolebinding", "ada", f"--role={ACCOUNT}", "--user=ada")
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
