"""What the reflector and the registries rely on in an API server, as tests.

Run on the fake (`tests/fakes/test_fake_kube_api.py`) and on the real kube-apiserver
(`tests/cluster/test_api_contract.py`): what one of them does otherwise fails. The suite
speaks HTTP only.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest

from tests.fakes.api_client import PATIENCE, STRATEGIC, Api
from tests.fakes.pods import pod
from tests.fakes.slices import endpoint, slice

__all__ = ["STREAM", "Api", "ApiContract"]

STREAM = {
    "watch": "1",
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


class ApiContract:
    """Subclass it and say how to get an API server.

    Attributes:
        no_forgetting: Why versions cannot be made too old here; empty if `forget_versions` can.
    """

    no_forgetting: ClassVar[str] = ""

    def api(self) -> AbstractAsyncContextManager[Api]:
        """An entered `Api` that may do everything, with an empty namespace of its own."""
        raise NotImplementedError

    def reader(self, api: Api) -> AbstractAsyncContextManager[Api]:
        """The same server and namespace for an account that may `list` and `watch` pods there and no more."""
        raise NotImplementedError

    async def forget_versions(self, api: Api) -> None:
        """Make every version from before now too old (real: compact etcd, restart the API server)."""
        raise NotImplementedError

    # Lists

    async def test_a_list_has_a_version_and_items_without_kind(self) -> None:
        async with self.api() as api:
            made = await api.make("a")
            answer = await api.good("GET", api.path())
            assert answer["kind"] == "PodList"
            assert int(answer["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])
            (item,) = answer["items"]
            assert item["metadata"]["uid"] == made["metadata"]["uid"]
            assert "kind" not in item
            assert "apiVersion" not in item

    async def test_a_list_in_pages_is_of_one_moment(self) -> None:
        async with self.api() as api:
            for name in "abde":
                await api.make(name)
            version, first, token = await api.list(limit="3")
            assert first == ["a", "b", "d"]
            assert token
            await api.make("c")
            await api.make("f")
            again, rest, token = await api.list(limit="3", **{"continue": token})
            assert (again, rest, token) == (version, ["e"], "")

    async def test_version_0_ignores_the_limit(self) -> None:
        async with self.api() as api:
            for name in "abc":
                await api.make(name)
            # From the cache, which may be a moment behind.
            await self.seen(api, ["a", "b", "c"])
            _, names, token = await api.list(limit="1", resourceVersion="0")
            assert (names, token) == (["a", "b", "c"], "")

    async def seen(self, api: Api, names: list[str]) -> None:
        """Wait until the cache knows these pods."""
        async with asyncio.timeout(PATIENCE), api.watch(resourceVersion="0") as events:
            missing = set(names)
            while missing:
                missing.discard((await events.change())[1])

    async def test_a_continue_token_grows_old(self) -> None:
        if self.no_forgetting:
            pytest.skip(self.no_forgetting)
        async with self.api() as api:
            for name in "abc":
                await api.make(name)
            _, _, token = await api.list(limit="1")
            await api.make("d")
            await self.forget_versions(api)
            status, answer = await api.ask("GET", api.path(), query={"limit": "1", "continue": token})
            assert (status, answer["reason"], answer["code"]) == (410, "Expired", 410)

    async def test_labels_select(self) -> None:
        async with self.api() as api:
            await api.make("a", app="x", tier="web")
            await api.make("b", app="y")
            assert (await api.list(labelSelector="app=x"))[1] == ["a"]
            assert (await api.list(labelSelector="app in (x, y),tier"))[1] == ["a"]
            assert (await api.list(labelSelector="!tier"))[1] == ["b"]
            assert (await api.list(labelSelector="app!=x"))[1] == ["b"]

    async def test_the_field_metadata_name_selects(self) -> None:
        async with self.api() as api:
            await api.make("a")
            version = (await api.make("b"))["metadata"]["resourceVersion"]
            assert (await api.list(fieldSelector="metadata.name=b"))[1] == ["b"]
            async with api.watch(resourceVersion=version, fieldSelector="metadata.name=b") as events:
                await api.mark("a", labels={"x": "1"})
                await api.mark("b", labels={"x": "1"})
                assert await events.change() == ("MODIFIED", "b")
            status, answer = await api.ask("GET", api.path(), query={"fieldSelector": "spec.nonsense=b"})
            assert (status, answer["reason"]) == (400, "BadRequest")

    async def test_what_is_left_of_a_list_is_counted_where_nothing_is_selected(self) -> None:
        async with self.api() as api:
            for name in "abcde":
                await api.make(name, app=name)
            answer = await api.good("GET", api.path(), query={"limit": "1"})
            assert (len(answer["items"]), answer["metadata"]["remainingItemCount"]) == (1, 4)
            answer = await api.good("GET", api.path(), query={"limit": "5"})
            assert "remainingItemCount" not in answer["metadata"]
            selected = {"limit": "1", "labelSelector": "app"}
            assert "remainingItemCount" not in (await api.good("GET", api.path(), query=selected))["metadata"]

    async def test_the_field_status_phase_leaves_out_what_has_ended(self) -> None:
        async with self.api() as api:
            made = [await api.make(name) for name in "abc"]
            fields = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
            version = made[-1]["metadata"]["resourceVersion"]
            async with api.watch(resourceVersion=version, **fields) as events:
                for name, phase in (("a", "Running"), ("a", "Succeeded"), ("b", "Failed")):
                    body = {"status": {"phase": phase}}
                    await api.good("PATCH", api.path(f"{name}/status"), body, content_type=STRATEGIC)
                seen = [await events.change() for _ in range(3)]
            assert seen == [("MODIFIED", "a"), ("DELETED", "a"), ("DELETED", "b")]
            assert (await api.list(**fields))[1] == ["c"]

    async def test_a_path_may_end_in_a_slash(self) -> None:
        async with self.api() as api:
            await api.make("a")
            answer = await api.good("GET", api.path() + "/")
            assert len(answer["items"]) == 1

    # Watches

    async def test_a_watch_from_a_lists_version_tells_what_came_after_it(self) -> None:
        async with self.api() as api:
            await api.make("a")
            version, _, _ = await api.list()
            await api.make("b")
            async with api.watch(resourceVersion=version) as events:
                await api.mark("a", annotations={"x": "größe 🦊"})
                await api.remove("b")
                seen = [await events.next() for _ in range(2)]
                while seen[-1][0] != "DELETED":
                    seen.append(await events.next())
            told = [(kind, obj["metadata"]["name"]) for kind, obj in seen]
            assert told[0] == ("ADDED", "b")
            assert ("MODIFIED", "a") in told
            assert told[-1] == ("DELETED", "b")
            versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in seen]
            assert versions == sorted(versions)
            assert versions[0] > int(version)
            assert seen[0][1]["kind"] == "Pod"

    async def test_text_is_sent_as_utf8_one_event_a_line(self) -> None:
        async with self.api() as api:
            await api.make("a")
            version = (await api.make("b"))["metadata"]["resourceVersion"]
            async with api.watch(resourceVersion=version) as events:
                await api.mark("a", annotations={"x": "größe 🦊\nsecond line"})
                text = await events.line()
            assert text.endswith(b"\n")
            assert "größe 🦊".encode() in text
            assert json.loads(text)["object"]["metadata"]["annotations"]["x"].endswith("\nsecond line")

    async def test_a_watch_without_a_version_starts_with_what_is_there(self) -> None:
        async with self.api() as api:
            await api.make("a")
            async with api.watch() as events:
                assert await events.change() == ("ADDED", "a")
                await api.make("b")
                assert await events.change() == ("ADDED", "b")

    async def test_a_watch_ends_cleanly_when_its_time_is_over(self) -> None:
        async with self.api() as api:
            version, _, _ = await api.list()
            async with api.watch(resourceVersion=version, timeoutSeconds="1") as events:
                assert await events.line() == b""

    async def test_a_bookmark_comes_before_the_time_is_over(self) -> None:
        async with self.api() as api:
            await api.make("a")
            version, _, _ = await api.list()
            query = {"resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "3"}
            async with api.watch(**query) as events:
                # A watch from the version in force gets no bookmark before something has happened.
                version = (await api.make("b"))["metadata"]["resourceVersion"]
                assert (await events.next())[0] == "ADDED"
                kind, obj = await events.next()
            assert kind == "BOOKMARK"
            assert int(obj["metadata"]["resourceVersion"]) >= int(version)
            assert "uid" not in obj["metadata"]

    async def test_no_bookmark_comes_to_who_did_not_ask(self) -> None:
        async with self.api() as api:
            version, _, _ = await api.list()
            async with api.watch(resourceVersion=version, timeoutSeconds="3") as events:
                await api.make("a")
                assert (await events.next())[0] == "ADDED"
                assert await events.line() == b""

    async def test_a_watch_from_a_forgotten_version_gets_410_as_an_event(self) -> None:
        if self.no_forgetting:
            pytest.skip(self.no_forgetting)
        async with self.api() as api:
            old = (await api.make("a"))["metadata"]["resourceVersion"]
            await api.make("b")
            await self.forget_versions(api)
            # Status 200: `watch` checks it.
            async with api.watch(resourceVersion=old) as events:
                kind, obj = await events.next()
            assert kind == "ERROR"
            assert (obj["kind"], obj["code"], obj["reason"]) == ("Status", 410, "Expired")

    async def test_a_watch_from_the_future_leaves_out_what_is_older(self) -> None:
        async with self.api() as api:
            version, _, _ = await api.list()
            future = str(int(version) + 1_000_000)
            async with api.watch(resourceVersion=future, timeoutSeconds="2") as events:
                await api.make("a")
                assert await events.line() == b""

    async def test_a_label_lost_arrives_as_deleted_with_the_old_labels(self) -> None:
        async with self.api() as api:
            made = await api.make("a", app="x")
            version = made["metadata"]["resourceVersion"]
            async with api.watch(resourceVersion=version, labelSelector="app=x") as events:
                changed = await api.mark("a", labels={"app": None})
                kind, obj = await events.next()
            assert kind == "DELETED"
            assert obj["metadata"]["labels"]["app"] == "x"
            assert obj["metadata"]["uid"] == made["metadata"]["uid"]
            assert obj["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]

    async def test_a_label_gained_arrives_as_added(self) -> None:
        async with self.api() as api:
            version = (await api.make("a", app="y"))["metadata"]["resourceVersion"]
            async with api.watch(resourceVersion=version, labelSelector="app=x") as events:
                await api.mark("a", annotations={"nobody": "is told"})
                await api.mark("a", labels={"app": "x"})
                kind, obj = await events.next()
            assert kind == "ADDED"
            assert obj["metadata"]["labels"]["app"] == "x"

    async def test_a_pod_of_the_same_name_has_a_new_uid(self) -> None:
        async with self.api() as api:
            one = await api.make("a")
            await api.remove("a")
            two = await api.make("a")
            assert one["metadata"]["uid"] != two["metadata"]["uid"]

    async def test_a_deleted_pod_is_first_modified_to_have_a_deletion_timestamp(self) -> None:
        async with self.api() as api:
            version = (await api.make("a"))["metadata"]["resourceVersion"]
            async with api.watch(resourceVersion=version) as events:
                await api.good("DELETE", api.path("a"))
                kind, obj = await events.next()
                assert kind == "MODIFIED"
                assert obj["metadata"]["deletionTimestamp"]
                await api.remove("a")
                while kind == "MODIFIED":
                    kind, obj = await events.next()
                assert (kind, obj["metadata"]["name"]) == ("DELETED", "a")

    # Streaming lists

    async def test_a_streaming_list_sends_each_object_then_a_marked_bookmark_then_changes(self) -> None:
        async with self.api() as api:
            for name in "abc":
                await api.make(name)
            version, _, _ = await api.list()
            async with api.watch(**STREAM) as events:
                initial = [await events.next() for _ in range(3)]
                assert sorted((kind, obj["metadata"]["name"]) for kind, obj in initial) == [
                    ("ADDED", "a"),
                    ("ADDED", "b"),
                    ("ADDED", "c"),
                ]
                kind, obj = await events.next()
                assert kind == "BOOKMARK"
                assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
                end = obj["metadata"]["resourceVersion"]
                assert int(end) >= int(version)
                await api.make("d")
                assert await events.change() == ("ADDED", "d")
            async with api.watch(resourceVersion=end) as events:
                assert await events.change() == ("ADDED", "d")

    async def test_a_streaming_list_of_nothing_is_its_bookmark(self) -> None:
        async with self.api() as api, api.watch(**STREAM) as events:
            kind, obj = await events.next()
            assert kind == "BOOKMARK"
            assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}

    async def test_a_streaming_list_without_bookmarks_never_says_that_it_is_over(self) -> None:
        async with self.api() as api:
            await api.make("a")
            query = {name: value for name, value in STREAM.items() if name != "allowWatchBookmarks"}
            async with api.watch(**query, timeoutSeconds="2") as events:
                assert (await events.next())[0] == "ADDED"
                assert await events.line() == b""

    async def test_a_streaming_list_wants_resource_version_match(self) -> None:
        async with self.api() as api:
            query = {name: value for name, value in STREAM.items() if name != "resourceVersionMatch"}
            status, answer = await api.ask("GET", api.path(), query=query)
            assert (status, answer["reason"]) == (422, "Invalid")
            assert "resourceVersionMatch" in answer["message"]

    # Writes

    async def test_a_strategic_merge_adds_and_null_removes_and_the_rest_stays(self) -> None:
        async with self.api() as api:
            made = await api.make("a", app="x", other="stays")
            await api.mark("a", labels={"micro.mu/type": "service"}, annotations={"micro.mu/one": "{}"})
            await api.mark("a", annotations={"micro.mu/two": "{}"})
            meta = (await api.mark("a", labels={"app": None}, annotations={"micro.mu/one": None}))["metadata"]
            assert meta["labels"] == {"other": "stays", "micro.mu/type": "service"}
            assert meta["annotations"] == {"micro.mu/two": "{}"}
            assert meta["uid"] == made["metadata"]["uid"]

    async def test_removing_what_is_not_there_and_changing_nothing_makes_no_new_version(self) -> None:
        async with self.api() as api:
            made = await api.make("a", app="x")
            same = await api.mark("a", labels={"app": "x", "absent": None}, annotations={"absent": None})
            assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]

    async def test_a_patch_may_carry_a_status_of_null(self) -> None:
        async with self.api() as api:
            await api.make("a")
            # go-micro's patches do.
            body = {"metadata": {"labels": {"x": "1"}}, "status": None}
            answer = await api.good("PATCH", api.path("a"), body, content_type=STRATEGIC)
            assert answer["metadata"]["labels"]["x"] == "1"
            assert answer["status"]["phase"] == "Pending"

    async def test_a_patch_that_means_another_version_is_a_conflict(self) -> None:
        async with self.api() as api:
            made = await api.make("a")
            version = made["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version, "labels": {"x": "1"}}}
            changed = await api.good("PATCH", api.path("a"), body, content_type=STRATEGIC)
            assert changed["metadata"]["labels"]["x"] == "1"
            status, answer = await api.ask("PATCH", api.path("a"), body, content_type=STRATEGIC)
            assert (status, answer["reason"]) == (409, "Conflict")

    async def test_a_pods_ports_cannot_be_patched(self) -> None:
        async with self.api() as api:
            await api.make("a")
            body = {"spec": {"containers": [{"name": "main", "ports": [{"containerPort": 9}]}]}}
            status, answer = await api.ask("PATCH", api.path("a"), body, content_type=STRATEGIC)
            assert (status, answer["reason"]) == (422, "Invalid")

    async def test_status_is_written_apart_and_told_as_modified(self) -> None:
        async with self.api() as api:
            made = await api.make("a")
            assert made["status"].get("conditions", []) == []
            ready = pod("a", "10.0.0.9", namespace=api.namespace)["status"]
            version = made["metadata"]["resourceVersion"]
            async with api.watch(resourceVersion=version) as events:
                await api.good("PATCH", api.path("a/status"), {"status": ready}, content_type=STRATEGIC)
                kind, obj = await events.next()
            assert kind == "MODIFIED"
            assert obj["status"]["podIPs"] == [{"ip": "10.0.0.9"}]
            assert {"type": "Ready", "status": "True"}.items() <= _condition(obj, "Ready").items()
            # A patch of the pod itself leaves the status alone.
            body = {"status": {"podIP": "10.6.6.6"}, "metadata": {"labels": {"x": "1"}}}
            answer = await api.good("PATCH", api.path("a"), body, content_type=STRATEGIC)
            assert answer["status"]["podIP"] == "10.0.0.9"

    async def test_endpoint_slices_are_listed_and_watched_like_pods(self) -> None:
        async with self.api() as api:
            path = api.path(plural="endpointslices")
            one = slice("greeter-1", endpoint("10.0.0.1"), namespace=api.namespace)
            made = await api.good("POST", path, one)
            version, names, _ = await api.list(
                "endpointslices", labelSelector="kubernetes.io/service-name=greeter"
            )
            assert names == ["greeter-1"]
            query = {"resourceVersion": version, "labelSelector": "kubernetes.io/service-name=greeter"}
            async with api.watch("endpointslices", **query) as events:
                made["endpoints"].append(endpoint("10.0.0.2", ready=False, serving=True, terminating=True))
                await api.good("PUT", f"{path}/greeter-1", made)
                kind, obj = await events.next()
            assert (kind, obj["kind"]) == ("MODIFIED", "EndpointSlice")
            assert [one["addresses"] for one in obj["endpoints"]] == [["10.0.0.1"], ["10.0.0.2"]]
            assert obj["endpoints"][1]["conditions"] == {"ready": False, "serving": True, "terminating": True}

    async def test_slices_of_several_services_are_selected_together(self) -> None:
        async with self.api() as api:
            path = api.path(plural="endpointslices")
            for service in "abc":
                body = slice(f"{service}-1", endpoint("10.0.0.1"), service=service, namespace=api.namespace)
                version = (await api.good("POST", path, body))["metadata"]["resourceVersion"]
            selected = {"labelSelector": "kubernetes.io/service-name in (a,c,absent)"}
            assert (await api.list("endpointslices", **selected))[1] == ["a-1", "c-1"]
            async with api.watch("endpointslices", resourceVersion=version, **selected) as events:
                for service in "bc":
                    await api.good("DELETE", f"{path}/{service}-1")
                assert await events.change() == ("DELETED", "c-1")

    # Refusals

    async def test_what_is_not_there_is_404(self) -> None:
        async with self.api() as api:
            for method, body in (("GET", None), ("PATCH", {"metadata": {}})):
                status, answer = await api.ask(method, api.path("nobody"), body, content_type=STRATEGIC)
                assert (status, answer["kind"], answer["reason"]) == (404, "Status", "NotFound")

    async def test_an_unknown_token_is_401(self) -> None:
        async with self.api() as api:
            status, answer = await api.ask("GET", api.path(), headers={"Authorization": "Bearer nonsense"})
            assert (status, answer["kind"], answer["reason"]) == (401, "Status", "Unauthorized")

    async def test_a_denied_verb_is_403_and_says_who_may_not_do_what(self) -> None:
        async with self.api() as api, self.reader(api) as reader:
            await api.make("a")
            assert (await reader.list())[1] == ["a"]
            body = {"metadata": {"labels": {"x": "1"}}}
            status, answer = await reader.ask("PATCH", reader.path("a"), body, content_type=STRATEGIC)
            assert (status, answer["kind"], answer["reason"], answer["code"]) == (
                403,
                "Status",
                "Forbidden",
                403,
            )
            assert answer["details"]["kind"] == "pods"
            assert 'cannot patch resource "pods" in API group ""' in answer["message"]
            assert f'in the namespace "{api.namespace}"' in answer["message"]

    async def test_one_may_ask_what_one_may(self) -> None:
        async with self.api() as api, self.reader(api) as reader:
            for verb, allowed in (("list", True), ("watch", True), ("patch", False)):
                asked = {"verb": verb, "group": "", "resource": "pods", "namespace": api.namespace}
                answer = await reader.good(
                    "POST",
                    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                    {
                        "kind": "SelfSubjectAccessReview",
                        "apiVersion": "authorization.k8s.io/v1",
                        "spec": {"resourceAttributes": asked},
                    },
                )
                assert answer["status"]["allowed"] is allowed, verb


def _condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = obj["status"]["conditions"]
    return next(one for one in conditions if one["type"] == kind)
