"""Every disagreement between handlers and proto is found before serving, all at once."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from pymicro.base.errors import HandlerMismatch
from pymicro.serving.handlers import Style, build, handler
from tests.protos import strict_pb2, zoo_pb2_grpc
from tests.protos import zoo_pb2 as pb

if TYPE_CHECKING:
    from somewhere_only_type_checkers_go import Creature  # noqa: F401  # in annotations given as text


def mismatches_of(obj: object, source: Any = pb, *, partial: bool = True) -> list[HandlerMismatch]:
    return build(obj, source, partial=partial)[1]


def only_mismatch(obj: object, source: Any = pb, *, partial: bool = True) -> HandlerMismatch:
    (found,) = mismatches_of(obj, source, partial=partial)
    return found


def styles_of(obj: object, source: Any = pb) -> dict[str, Style]:
    tables, mismatches = build(obj, source, partial=True)
    assert mismatches == []
    return {m.rpc.path.rpartition("/")[2]: m.style for table in tables for m in table.methods}


def line_of(function: Any) -> str:
    code = function.__code__
    return f"test_handler_mismatches.py:{code.co_firstlineno}"


def test_handlers_are_found_by_name_with_case_and_underscores_dropped() -> None:
    class Keeper:
        @handler("Import")
        async def bring_in(self, request: pb.Animal) -> pb.Animal: ...

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            yield pb.Animal()

        @handler
        async def COUNT(self, requests: AsyncIterable[pb.Animal], context: object) -> pb.Tally: ...

        @handler()
        async def talk_(self, requests: AsyncIterator[pb.Animal]) -> AsyncGenerator[pb.Animal, None]:
            yield pb.Animal()

    (table,), mismatches = build(Keeper(), pb)
    assert mismatches == []
    assert table.service == "pymicro.tests.zoo.Keeper"
    assert [(m.rpc.path.rpartition("/")[2], m.label.rpartition(".")[2]) for m in table.methods] == [
        ("Import", "bring_in"),
        ("Watch", "watch"),
        ("Count", "COUNT"),
        ("Talk", "talk_"),
    ]
    assert [m.takes_context for m in table.methods] == [False, False, True, False]
    assert line_of(Keeper.bring_in) in table.methods[0].where


def test_a_keyword_as_a_name_needs_only_a_trailing_underscore() -> None:
    class Keeper:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal: ...

    assert styles_of(Keeper()) == {"Import": Style.COROUTINE}


def test_all_mismatches_are_reported_at_once() -> None:
    class Keeper:
        @handler
        async def imporl(self, request: pb.Animal) -> pb.Animal: ...

        @handler
        async def watch(self, request: pb.Animal) -> pb.Animal: ...

        @handler
        def count(self, requests: pb.Animal, a: object, b: object) -> pb.Query: ...

    found = mismatches_of(Keeper(), partial=False)
    text = "\n".join(map(str, found))
    assert "did you mean Import?" in text
    assert "request: pymicro.tests.zoo.Query" in text  # of watch
    assert "an async generator function (async def with yield): the proto has a response stream" in text
    assert "yield the responses instead of returning them" in text
    assert "requests: AsyncIterator[pymicro.tests.zoo.Animal]" in text  # of count
    assert "(requests, a, b)" in text
    assert "a handler for /pymicro.tests.zoo.Keeper/Talk" in text
    assert "a handler for /pymicro.tests.zoo.Keeper/Import" in text
    for function in (Keeper.imporl, Keeper.watch, Keeper.count):
        assert line_of(function) in text
    assert all(mismatch.where for mismatch in found)


def test_a_method_without_a_handler_is_a_mismatch_unless_partial() -> None:
    class Gate:
        @handler
        async def other(self, request: pb.Query) -> pb.Tally: ...

    class Open:
        async def open_gate(self, request: pb.Query) -> pb.Tally: ...

    service = pb.DESCRIPTOR.services_by_name["Gate"]
    assert "OpenGate" in str(mismatches_of(Gate(), service, partial=True)[0])
    found = only_mismatch(Open(), service, partial=False)
    assert found.expected == "a handler for /pymicro.tests.zoo.Gate/OpenGate"
    assert found.hint.endswith("Open.open_gate with @handler")
    assert mismatches_of(Open(), service, partial=True) == []


def test_two_handlers_for_one_rpc_are_a_mismatch_that_names_both() -> None:
    class Gate:
        @handler
        async def open_gate(self, request: pb.Query) -> pb.Tally: ...

        @handler("OpenGate")
        async def also(self, request: pb.Query) -> pb.Tally: ...

    found = only_mismatch(Gate())
    assert line_of(Gate.also) in found.where
    assert "open_gate" in found.found
    assert line_of(Gate.open_gate) in found.found


def test_rpcs_that_coincide_must_be_named() -> None:
    class Twins:
        @handler
        async def get_foo(self, request: pb.Query) -> pb.Animal: ...

    class Named:
        @handler("GetFoo")
        async def one(self, request: pb.Query) -> pb.Animal: ...

        @handler
        async def Get_Foo(self, request: pb.Query) -> pb.Animal: ...

    found = only_mismatch(Twins())
    assert found.hint == '@handler("GetFoo") or @handler("Get_Foo")'
    named = pb.DESCRIPTOR.services_by_name["Twins"]
    assert styles_of(Named(), named) == {"GetFoo": Style.COROUTINE, "Get_Foo": Style.COROUTINE}


def test_a_name_given_to_the_decorator_must_be_exact() -> None:
    class Gate:
        @handler("open_gate")
        async def go(self, request: pb.Query) -> pb.Tally: ...

    found = only_mismatch(Gate())
    assert found.found == '@handler("open_gate")'
    assert found.hint == "did you mean OpenGate?"


@pytest.mark.parametrize("name", ["Keper", "Zoo"])
def test_a_class_named_like_no_service_lists_them(name: str) -> None:
    found = only_mismatch(type(name, (), {"import_": handler(lambda self, request: None)})())
    assert "Keeper, Twins, Gate" in found.expected
    assert ("did you mean Keeper?" in found.hint) is (name == "Keper")
    assert 'pymicro_tests_zoo_pb2.DESCRIPTOR.services_by_name["Keeper"]' in found.hint


def test_the_only_service_of_a_module_needs_no_matching_name() -> None:
    class Anything:
        @handler
        async def fill(self, request: strict_pb2.Form) -> strict_pb2.Form: ...

    assert styles_of(Anything(), strict_pb2) == {"Fill": Style.COROUTINE}


class Plain:
    @handler
    async def open_gate(self, request: pb.Query) -> pb.Tally: ...


@pytest.mark.parametrize(
    ("obj", "source", "words"),
    [
        (Plain(), None, ["none given", "service.add(Plain(), the_generated_pb2)"]),
        (Plain(), zoo_pb2_grpc, ["pymicro_tests_zoo_pb2_grpc", "pymicro_tests_zoo_pb2 has the descriptors"]),
        (Plain(), "zoo.proto", ["a generated *_pb2 module or a ServiceDescriptor", "zoo.proto"]),
        (Plain, pb, ["add an instance: Plain()"]),
        (Plain(), pb.DESCRIPTOR.services_by_name["Gate"].methods[0], ["a ServiceDescriptor"]),
    ],
)
def test_what_is_no_proto_or_no_object_is_told_what_to_give(
    obj: object, source: Any, words: list[str]
) -> None:
    text = str(only_mismatch(obj, source))
    assert [word for word in words if word not in text] == []


def make(annotation: Any, *, response: Any = None, stream: bool = False) -> object:
    """A class whose handler of Import (or Talk) has these annotations."""

    async def unary(self: object, request: Any) -> Any: ...

    async def streaming(self: object, request: Any) -> Any:
        yield

    function: Any = streaming if stream else unary
    function.__annotations__ = {"request": annotation, "return": response if response else annotation}
    return type("Keeper", (), {"talk" if stream else "import_": handler(function)})()


@pytest.mark.parametrize(
    "annotation",
    [pb.Animal, "pb.Animal", "pb.Nothing", "Creature", Any, object, "pb.Animal | None", "list["],
)
def test_annotations_that_fit_or_cannot_be_resolved_are_no_mismatch(annotation: Any) -> None:
    assert mismatches_of(make(annotation)) == []


@pytest.mark.parametrize(
    "annotation", [pb.Query, "pb.Query", str, None, "list[pb.Animal]", "pb.Query | None"]
)
def test_annotations_of_another_type_are_mismatches(annotation: Any) -> None:
    found = mismatches_of(make(annotation, response=pb.Animal))
    assert ["request: pymicro.tests.zoo.Animal" in f.expected for f in found] == [True]
    found = mismatches_of(make(pb.Animal, response=annotation or "None"))
    assert ["response: pymicro.tests.zoo.Animal" in f.expected for f in found] == [True]


@pytest.mark.parametrize(
    ("annotation", "fits"),
    [
        (AsyncIterator[pb.Animal], True),
        (AsyncIterable[pb.Animal], True),
        (AsyncGenerator[pb.Animal, None], True),
        ("AsyncIterator[pb.Animal]", True),
        (AsyncIterator, True),
        ("AsyncIterator[Creature]", True),
        (AsyncIterator[pb.Query], False),
        (pb.Animal, False),
        (list[pb.Animal], False),
    ],
)
def test_stream_annotations_are_held_against_the_proto(annotation: Any, fits: bool) -> None:
    assert (mismatches_of(make(annotation, stream=True)) == []) is fits


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def careless(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any) -> Any:
        return await function(*args)

    return wrapper


def test_decorators_and_partials_are_seen_through() -> None:
    async def bring_in(extra: int, request: pb.Animal) -> pb.Animal: ...

    class Keeper:
        @handler
        @traced
        async def import_(self, request: pb.Animal, context: object) -> pb.Animal: ...

        @handler
        @traced
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            yield pb.Animal()

    class Partial:
        import_ = handler(staticmethod(functools.partial(bring_in, 1)))

    class Careless:
        @handler
        @careless
        async def open_gate(self, request: pb.Query) -> pb.Tally: ...

    assert styles_of(Keeper()) == {"Import": Style.COROUTINE, "Watch": Style.STREAM}
    assert styles_of(Partial(), pb.DESCRIPTOR.services_by_name["Keeper"]) == {"Import": Style.COROUTINE}
    found = only_mismatch(Careless(), pb.DESCRIPTOR.services_by_name["Gate"])
    assert found.found == "(*args)"
    assert "functools.wraps" in found.hint


def test_static_and_class_methods_are_handlers_in_either_order() -> None:
    class Gate:
        @handler
        @staticmethod
        async def open_gate(request: pb.Query) -> pb.Tally: ...

    class Strictness:
        @classmethod
        @handler
        async def fill(cls, request: strict_pb2.Form, context: object) -> strict_pb2.Form: ...

    assert styles_of(Gate()) == {"OpenGate": Style.COROUTINE}
    assert styles_of(Strictness(), strict_pb2) == {"Fill": Style.COROUTINE}


def test_handler_on_a_class_or_a_property_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="marks methods"):
        handler(Plain)
    with pytest.raises(TypeError, match="marks methods"):
        handler(property(lambda self: 1))  # type: ignore[arg-type]


def test_an_override_of_a_handler_is_a_handler() -> None:
    class Gate(Plain):
        async def open_gate(self, request: pb.Query) -> pb.Tally: ...

    (table,), mismatches = build(Gate(), pb)
    assert mismatches == []
    assert line_of(Gate.open_gate) in table.methods[0].where


def test_plain_functions_serve_unary_rpcs_only() -> None:
    class Keeper:
        @handler
        def import_(self, request: pb.Animal) -> pb.Animal: ...

    class Counting:
        @handler("Count")
        def count(self, requests: AsyncIterator[pb.Animal]) -> pb.Tally: ...

    class Yielding:
        @handler("Watch")
        def watch(self, request: pb.Query) -> Any:
            yield pb.Animal()

    keeper = pb.DESCRIPTOR.services_by_name["Keeper"]
    assert styles_of(Keeper()) == {"Import": Style.THREAD}
    assert "only unary rpcs may be served by plain functions" in only_mismatch(Counting(), keeper).hint
    assert only_mismatch(Yielding(), keeper).hint == "make it `async def`"


def test_a_plain_function_is_what_its_annotation_says_it_returns() -> None:
    class Keeper:
        @handler
        def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]: ...

        @handler
        def import_(self, request: pb.Animal) -> Awaitable[pb.Animal]: ...

    assert styles_of(Keeper()) == {"Import": Style.COROUTINE, "Watch": Style.STREAM}


def test_a_generator_where_one_response_is_asked_is_a_mismatch() -> None:
    class Gate:
        @handler
        async def open_gate(self, request: pb.Query) -> AsyncIterator[pb.Tally]:
            yield pb.Tally()

    assert only_mismatch(Gate()).hint == "return the response instead of yielding it"


def test_the_second_parameter_is_the_context_only_if_it_must_be_or_says_so() -> None:
    class Keeper:
        @handler
        async def import_(self, request: pb.Animal, retries: int = 3) -> pb.Animal: ...

        @handler
        async def count(self, requests: Any, context: object = None) -> pb.Tally: ...

    (table,), mismatches = build(Keeper(), pb, partial=True)
    assert mismatches == []
    assert [m.takes_context for m in table.methods] == [False, True]


def test_a_keyword_only_parameter_that_nobody_can_give_is_a_mismatch() -> None:
    class Gate:
        @handler
        async def open_gate(self, request: pb.Query, *, limit: int) -> pb.Tally: ...

    assert only_mismatch(Gate()).found == "(request, *, limit)"


def test_a_class_of_another_pool_with_the_same_name_is_another_type() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool
    from google.protobuf.message_factory import GetMessageClass

    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    service = pool.FindServiceByName("pymicro.tests.zoo.Gate")
    other = GetMessageClass(service.methods_by_name["OpenGate"].input_type)
    assert other is not pb.Query
    assert len(mismatches_of(Plain(), service)) == 2

    class Gate:
        @handler
        async def open_gate(self, request: other) -> Any: ...  # type: ignore[valid-type]

    Gate.open_gate.__annotations__["request"] = other
    assert mismatches_of(Gate(), service) == []
