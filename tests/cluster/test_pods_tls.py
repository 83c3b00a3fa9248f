"""From plain text to TLS that everybody wants, and certificates that change, under 200 calls a second.

One scene serves all tests: the greeters are what `pymicro manifest` prints, and each step of
docs/security.md, "Moving over", is one `kubectl apply`. The Secrets are real ones; the kubelet writes them
into the pods' folders at once, where a real one takes up to a minute. Retries are off.

`make test-cluster PYTEST_ARGS="-k pods_tls --transport fast"` does it over the other transport.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import trustme
import yaml

from pymicro.cli.manifests import Deployed, render
from pymicro.cli.manifests_tls import DEFAULT_TLS_PORT, CertificateSource
from tests.bars import CERTIFIED, Bars
from tests.certificates import chain_of, issue, key_of, pem_of
from tests.cluster.api import Refused
from tests.cluster.cluster import Cluster, PodView
from tests.cluster.plane import eventually
from tests.cluster.tally import Failure, Load
from tests.transports import ENDS

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"
LATE = "app.kubernetes.io/name=late"

PODS = 2
# Of each of the two clients, in calls a second.
RATE = 100.0
# Seconds between two exchanges, and how many there are.
PACE, EXCHANGES = 3.0, 20
DAY = 86400.0
# Seconds that a certificate lives which nobody renews: a pod has to take it, and a client to connect.
BRIEF = 15.0

Object = dict[str, Any]
Say = Callable[[str], None]


class Scene:
    """Greeters, two clients that call them all the time, and what their certificates come from."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.authority = trustme.CA()
        self.issue("greeter-tls", "greeter")
        self.issue("load-tls", "load")
        # The first one has no certificate as long as it may. The second one follows the nodes.
        self.first = self._load("plain")
        self.second = self._load("certified", secret="load-tls", MICRO_TLS_DIR="/tls")
        self.required = False

    def _load(self, name: str, secret: str = "", **settings: str) -> Load:
        return Load(
            self.cluster,
            self.namespace,
            clients=1,
            rate=RATE,
            name=name,
            settings=self.settings(**settings),
            secret=secret,
            # So long a new one takes until it calls, about.
            waited_for=3,
        )

    @staticmethod
    def settings(**more: str) -> dict[str, str]:
        """Of a client."""
        own = {"MICRO_REGISTRY": "kubernetes", "MICRO_CLIENT_RETRIES": "0", "MICRO_TRANSPORT": ENDS.client}
        return {**own, **more}

    # What happens to the cluster

    def issue(
        self,
        secret: str,
        name: str,
        *,
        believe: bytes = b"",
        days: float = 30.0,
        ca: trustme.CA | None = None,
    ) -> None:
        """Write a new certificate, and the authorities to believe, into a Secret; the scene's unless said."""
        leaf = issue(ca or self.authority, name, days=days)
        files = {
            "tls.crt": chain_of(leaf),
            "tls.key": key_of(leaf),
            "ca.crt": believe or pem_of(self.authority),
        }
        data = {key: base64.b64encode(text).decode() for key, text in files.items()}
        path = f"/api/v1/namespaces/{self.namespace}/secrets"
        try:
            self.cluster.plane.api.patch(f"{path}/{secret}", {"data": data})
        except Refused as exc:
            if exc.status != 404:
                raise
            self.cluster.plane.api.post(
                path, {"type": "kubernetes.io/tls", "metadata": {"name": secret}, "data": data}
            )

    def require(self) -> None:
        """Be where the steps end, if nobody has made them: greeters speak TLS alone, and clients want it."""
        if not self.required:
            self.apply(CertificateSource(way="secret"))
            self.require_of_clients()

    def require_of_clients(self) -> None:
        """Replace the clients by such with a certificate that call nobody in plain text."""
        required = self.settings(MICRO_TLS_DIR="/tls", MICRO_CLIENT_TLS="require")
        for load in self.loads:
            load.change(required, "load-tls")
        eventually(
            "both clients call over TLS", lambda: all(count >= PODS for count in self.handshakes()), 30.0
        )
        self.required = True

    def apply(self, tls: CertificateSource | None) -> None:
        """`pymicro manifest server.py … | kubectl apply -f -`, until only pods of it are there."""
        text = self.manifest(tls)
        self.cluster.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=text)
        self.cluster.plane.kubectl(
            "rollout", "status", "-n", self.namespace, "deployment/greeter", timeout=120.0
        )
        self.cluster.wait_for_pods(self.namespace, GREETER, PODS)

    @staticmethod
    def manifest(tls: CertificateSource | None) -> str:
        plan = Deployed(
            service="greeter",
            version="1.0.0",
            target="server.py",
            image="pymicro-greeter:dev",
            replicas=PODS,
            port=8080 if tls is None else DEFAULT_TLS_PORT,
            keepalive="10s",
            tls=tls,
        )
        # `pymicro manifest` leaves the transport to the service's code, and the greeter's names none.
        text, registry = render(plan), "            - name: MICRO_REGISTRY\n"
        assert registry in text
        transport = f'            - name: MICRO_TRANSPORT\n              value: "{ENDS.server}"\n'
        return text.replace(registry, transport + registry)

    def doctor(self, load: Load, **settings: str) -> list[Object]:
        """The problems that `pymicro doctor greeter` finds in the pod of a client."""
        [pod] = self.cluster.wait_for_pods(self.namespace, f"app.kubernetes.io/name={load.name}", 1)
        env = [f"{name}={value}" for name, value in settings.items()]
        command = ("python", "-m", "pymicro", "doctor", "greeter", "-o", "json")
        done = self.cluster.execute(pod, "env", *env, *command)
        answer = json.loads(done.stdout)
        found = [one for one in answer["findings"] if one["level"] == "problem"]
        assert done.returncode == (1 if found else 0), done
        return found

    # What the clients and pods say

    @property
    def loads(self) -> tuple[Load, Load]:
        return self.first, self.second

    def greeters(self, selector: str = GREETER) -> list[PodView]:
        return [pod for pod in self.cluster.pods(self.namespace, selector) if not pod.leaving]

    def taken(self) -> list[int]:
        """How many certificates each greeter and each client has taken so far, in a fixed order."""
        outputs = [
            self.cluster.output(self.namespace, rf"{re.escape(pod.name)}\.") for pod in self.greeters()
        ]
        servers = [len(re.findall(r"certificate: greeter, valid until", text)) for text in outputs]
        return [*servers, *(report["taken"] for load in self.loads for report in load.newest)]

    def handshakes(self) -> list[int]:
        """How many connections over TLS each client has made so far."""
        return [report["handshakes"] for load in self.loads for report in load.newest]

    def calls(self, since: float, until: float = float("inf")) -> tuple[int, list[Failure]]:
        """How many calls of reports in this time ended, and those that failed."""
        found = [load.tally(since, until) for load in self.loads]
        return sum(one.calls for one in found), [failure for one in found for failure in one.failures]

    def pass_calls(self, count: int) -> None:
        """Wait until so many more calls have ended."""
        begun = time.time()
        eventually(f"{count} calls end", lambda: self.calls(begun)[0] >= count, 60.0)

    def exchange(self, *names: Literal["greeter", "load"], **given: Any) -> None:
        """Write new certificates, and wait until all that are shown them have taken them.

        Clients then call over connections that were made with them.
        """
        names = names or ("greeter", "load")
        taken, shaken = self.taken(), self.handshakes()
        for name in names:
            self.issue(f"{name}-tls", name, **given)
        # Greeters come first in the list.
        mine = slice(None if "greeter" in names else PODS, None if "load" in names else PODS)

        def all_taken() -> bool:
            now = self.taken()
            return all(after > before for before, after in zip(taken[mine], now[mine], strict=True))

        eventually("new certificates are taken", all_taken, 30.0)
        if "load" in names:
            eventually(
                "clients call over new connections",
                lambda: all(
                    after >= before + PODS for before, after in zip(shaken, self.handshakes(), strict=True)
                ),
                30.0,
            )


@pytest.fixture
def required(scene: Scene) -> None:
    """Everybody has moved over."""
    scene.require()


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    namespace = cluster.plane.namespace()
    try:
        yield Scene(cluster, namespace)
    finally:
        cluster.plane.kubectl("delete", "namespace", namespace, "--wait=false")


def statuses(failures: list[Failure]) -> str:
    """` (3 UNAVAILABLE)`; nothing if there are none."""
    counted = Counter(one.status for one in failures)
    return f" ({', '.join(f'{count} {status}' for status, count in counted.items())})" if counted else ""


class Told:
    """Says for each step what its calls came to, and keeps the sum."""

    def __init__(self, scene: Scene, say: Say, what: str) -> None:
        self._scene = scene
        self._say = say
        self._what = what
        self._since = time.time()
        self.begun = self._since

    def step(self, text: str) -> None:
        """Another one has been made; a second more of calls, so that its own reports are there."""
        self._scene.pass_calls(2 * int(RATE))
        now = time.time()
        count, failures = self._scene.calls(self._since, now)
        took = now - self._since
        self._say(
            f"{self._what}, {text}: {count} calls in {took:.0f} s ({count / took:.0f}/s),"
            f" {len(failures)} failed{statuses(failures)}"
        )
        self._since = now

    def failed(self) -> tuple[str, list[Failure]]:
        """All of them together, in words and as they are."""
        count, failures = self._scene.calls(self.begun)
        return f"{len(failures)} of {count} ({self._what})", failures


def test_a_deployment_moves_from_plain_text_to_required_tls(scene: Scene, say: Say, bars: Bars) -> None:
    scene.apply(None)
    for load in scene.loads:
        load.start()
    told = Told(scene, say, "moving over")
    told.step("plain text")
    # The second one has a certificate, and nobody to show it to.
    assert scene.handshakes() == [0, 0]
    found = scene.doctor(scene.second, MICRO_CLIENT_TLS="require")
    assert len(found) == PODS
    for problem in found:
        assert "speaks plain text there, and this process wants TLS (client_tls)" in problem["text"]
        assert "client_tls=auto until it has one" in problem["fix"]

    scene.apply(CertificateSource(way="secret", plain_port=8080))
    eventually("the client with a certificate goes over", lambda: scene.handshakes()[1] >= PODS, 30.0)
    assert scene.handshakes()[0] == 0
    told.step("1. greeters with certificates and a plain port")
    eventually("the doctor says so", lambda: not scene.doctor(scene.second, MICRO_CLIENT_TLS="require"))

    scene.require_of_clients()
    told.step("2. clients with client_tls=require")

    scene.apply(CertificateSource(way="secret"))
    told.step("3. no plain port")
    figure, failures = told.failed()
    bars.met(CERTIFIED, figure, not failures)
    assert failures == []
    answered = [load.tally(time.time() - 2.0).nodes for load in scene.loads]
    assert all(node.endswith(f":{DEFAULT_TLS_PORT}") for nodes in answered for node in nodes)


@pytest.mark.usefixtures("required")
def test_certificates_are_exchanged_twenty_times(scene: Scene, say: Say, bars: Bars) -> None:
    told = Told(scene, say, "exchanged")
    shaken = scene.handshakes()
    for _ in range(EXCHANGES):
        begun = time.monotonic()
        scene.exchange()
        # The pace of the exchanges, not a wait for anything.
        time.sleep(max(0.0, begun + PACE - time.monotonic()))
    now = scene.handshakes()
    assert all(after >= before + EXCHANGES * PODS for before, after in zip(shaken, now, strict=True))
    made = sum(now) - sum(shaken)
    told.step(f"all certificates {EXCHANGES} times every {PACE:.0f} s, {made} new connections")
    figure, failures = told.failed()
    bars.met(CERTIFIED, figure, not failures)
    assert failures == []


@pytest.mark.usefixtures("required")
def test_certificates_expire_and_are_renewed_late(scene: Scene, say: Say, bars: Bars) -> None:
    told = Told(scene, say, "expired")
    scene.exchange(days=BRIEF / DAY)
    expired = time.time() + BRIEF
    told.step(f"certificates for {BRIEF:.0f} s")
    eventually("all of them have expired", lambda: time.time() > expired + 1.0, BRIEF + 30.0)
    told.step("after their end, over connections that stand")
    # The greeters' first: a caller whose certificate has expired could not connect anew, and need not.
    scene.exchange("greeter")
    scene.exchange("load")
    told.step("renewed")
    figure, failures = told.failed()
    bars.met(CERTIFIED, figure, not failures)
    assert failures == []


@pytest.mark.usefixtures("required")
def test_an_authority_is_exchanged(scene: Scene, say: Say, bars: Bars) -> None:
    told = Told(scene, say, "another authority")
    old, new = scene.authority, trustme.CA()
    both = pem_of(old) + pem_of(new)
    for text, issuer, believed in (
        ("1. both are believed", old, both),
        ("2. certificates of the new one", new, both),
        ("3. only the new one is believed", new, pem_of(new)),
    ):
        scene.exchange(believe=believed, ca=issuer)
        told.step(text)
    scene.authority = new
    figure, failures = told.failed()
    bars.met(CERTIFIED, figure, not failures)
    assert failures == []


def late_greeter() -> Object:
    """A greeter of its own whose certificate nobody renews, and that ends its connections now and then."""
    text = Scene.manifest(CertificateSource(way="secret", source="late-tls"))
    [found] = [one for one in yaml.safe_load_all(text) if one["kind"] == "Deployment"]
    labels = found["spec"]["template"]["metadata"]["labels"]
    labels["app.kubernetes.io/name"] = found["metadata"]["name"] = "late"
    found["spec"]["selector"]["matchLabels"] = {"app.kubernetes.io/name": "late"}
    found["spec"]["replicas"] = 1
    [container] = found["spec"]["template"]["spec"]["containers"]
    container["env"].append({"name": "MICRO_MAX_CONNECTION_AGE", "value": "4s"})
    return dict(found)


@pytest.mark.usefixtures("required")
def test_a_greeter_whose_certificate_has_expired_is_left_and_the_doctor_says_why(
    scene: Scene, say: Say
) -> None:
    scene.issue("late-tls", "greeter")
    deployment = json.dumps(late_greeter())
    scene.cluster.plane.kubectl("apply", "-n", scene.namespace, "-f", "-", stdin=deployment)
    [late] = scene.cluster.wait_for_pods(scene.namespace, LATE, 1)
    address = f"{late.ip}:{DEFAULT_TLS_PORT}"

    def there(since: float) -> int:
        return sum(load.tally(since).nodes[address] for load in scene.loads)

    begun = time.time()
    eventually("it is called", lambda: there(begun), 30.0)
    scene.issue("late-tls", "greeter", days=BRIEF / DAY)
    expired = time.time() + BRIEF
    output = rf"{re.escape(late.name)}\."
    eventually(
        "it takes one that nobody renews",
        lambda: "a new certificate: greeter" in scene.cluster.output(scene.namespace, output),
        BRIEF,
    )
    eventually("its certificate has expired", lambda: time.time() > expired, BRIEF + 10.0)
    # Connections stand until their age ends them; from then on nobody gets another one.
    eventually("nobody calls it any more", lambda: not there(time.time() - 3.0), 30.0)
    left = time.time()
    scene.pass_calls(4 * int(RATE))
    assert there(left) == 0
    problem = {one["check"]: one for one in scene.doctor(scene.second)}[f"node {address}"]
    count, failures = scene.calls(begun)
    # Of those that waited for a connection in the place of one that had come of age. With retries, which
    # are on unless a client says otherwise, each would have gone to another greeter.
    say(
        f"1 of {PODS + 1} greeters with an expired certificate: {count} calls, {len(failures)} failed"
        f"{statuses(failures)}, 0 there from {left - expired:.0f} s after its end; doctor: {problem['text']}"
    )
    assert "the node's certificate has expired" in problem["text"]
    assert "see to what renews it" in problem["fix"]
    for load in scene.loads:
        load.stop()
