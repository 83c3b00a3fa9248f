from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from pymicro.rpc.schema import MethodNotFound, Schema, SchemaError, Symbols, file_text, to_json
from tests.shop import shop_files, shop_schema


@pytest.mark.parametrize(
    "text",
    [
        "Buy",
        "Shop.Buy",
        "Shop/Buy",
        "shop.v1.Shop/Buy",
        "shop.v1.Shop.Buy",
        "/shop.v1.Shop/Buy",
        "v1.Shop.Buy",
    ],
)
def test_a_method_is_found_by_each_form_of_its_name(text: str) -> None:
    method = shop_schema().find_method(text)
    assert method.path == "/shop.v1.Shop/Buy"
    assert method.name == "shop.v1.Shop.Buy"
    assert method.request.DESCRIPTOR.full_name == "shop.v1.Order"
    assert method.response.DESCRIPTOR.full_name == "shop.v1.Receipt"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("Buy", (False, False)), ("Track", (False, True)), ("Collect", (True, False)), ("Haggle", (True, True))],
)
def test_a_method_knows_its_shape(name: str, shape: tuple[bool, bool]) -> None:
    method = shop_schema().find_method(f"Shop.{name}")
    assert (method.client_streaming, method.server_streaming) == shape


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Shop.Bui", ["service shop.v1.Shop has no method 'Bui'", "did you mean shop.v1.Shop/Buy?"]),
        ("Shop.re_stock", ["has no method 're_stock'", "there are:", "shop.v1.Shop/Haggle"]),
        ("Sop.Haggle", ["there is no service 'Sop'", "did you mean shop.v1.Shop/Haggle?"]),
        ("buy", ["there is no method 'buy'", "did you mean shop.v1.Shop/Buy?"]),
        ("hop.Buy", ["there is no service 'hop'"]),  # a name is matched by whole segments
        ("Find", ["may be each of shop.v1.Shop/Find, shop.v1.Warehouse/Find: say which"]),
        ("Zzzzzzzzz", ["there is no method 'Zzzzzzzzz'; there are:", "\n  shop.v1.Warehouse/Restock"]),
    ],
)
def test_a_method_that_is_not_there_is_told_with_what_is(text: str, words: list[str]) -> None:
    with pytest.raises(MethodNotFound) as caught:
        shop_schema().find_method(text)
    for word in words:
        assert word in str(caught.value)


def test_only_the_services_named_are_looked_in() -> None:
    assert shop_schema().find_method("Find", ["shop.v1.Shop"]).path == "/shop.v1.Shop/Find"
    with pytest.raises(MethodNotFound, match="no service is known at all"):
        shop_schema().find_method("Find", [])


def test_files_are_linked_in_any_order_and_once() -> None:
    schema = Schema()
    schema.add(reversed(shop_files()))
    before = schema.find_method("Buy").descriptor
    schema.add(shop_files())
    assert schema.find_method("Buy").descriptor is before
    assert [service.full_name for service in schema.services()] == ["shop.v1.Shop", "shop.v1.Warehouse"]


def test_types_are_kept_apart_from_generated_code() -> None:
    first, second = shop_schema(), shop_schema()
    assert first.message_class("shop.v1.Order") is not second.message_class("shop.v1.Order")


def test_googles_own_files_need_not_be_given() -> None:
    schema = Schema()
    schema.add(file for file in shop_files() if not file.name.startswith("google/"))
    assert schema.has_message("google.protobuf.Timestamp")


def test_a_type_of_a_missing_import_is_an_empty_one_and_that_is_told() -> None:
    schema = Schema()
    schema.add(file for file in shop_files() if file.name != "shop/v1/money.proto")
    assert schema.gaps == [
        "shop/v1/shop.proto: no file defines shop.v1.Money "
        "(shop/v1/shop.proto imports shop/v1/money.proto, which is not to be had)"
    ]
    order: Any = schema.find_method("Buy").request(item_name="hat")
    order.extras.add()
    whole: Any = shop_schema().message_class("shop.v1.Order")
    read = type(order).FromString(whole(extras=[{"currency": "EUR"}]).SerializeToString())
    assert read.extras[0].SerializeToString() == b"\n\x03EUR"  # its fields are kept, without names
    assert 'import "shop/v1/money.proto";' in _text(schema, "shop/v1/shop.proto")


def test_an_import_that_only_options_need_lacks_nothing() -> None:
    file = FileDescriptorProto(name="a.proto", package="a", dependency=["options.proto"])
    file.message_type.add(name="A")
    schema = Schema()
    schema.add([file])
    assert schema.has_message("a.A")
    assert schema.gaps == []


def test_a_file_that_is_only_a_name_or_has_another_path_is_done_without() -> None:
    money = next(file for file in shop_files() if file.name == "shop/v1/money.proto")
    moved = FileDescriptorProto()
    moved.CopyFrom(money)
    moved.name = "protos/money.proto"
    for files in ([FileDescriptorProto(name=money.name), moved], [moved]):
        schema = Schema()
        schema.add([*(file for file in shop_files() if file.name != money.name), *files])
        assert schema.gaps == []
        assert "currency" in schema.message_class("shop.v1.Money").DESCRIPTOR.fields_by_name
        assert schema.find_method("Buy").name == "shop.v1.Shop.Buy"


@pytest.mark.parametrize("edition", [1003, 9998])
def test_a_newer_edition_is_read_as_the_newest_that_is_known(edition: int) -> None:
    # As bytes: this protobuf has no name for it.
    plain = FileDescriptorProto(name="new.proto", package="new", syntax="editions")
    plain.message_type.add(name="A").field.add(name="b", number=1, type=9, label=1)
    number = bytes([0x70, edition & 0x7F | 0x80, edition >> 7])
    schema = Schema()
    schema.add([FileDescriptorProto.FromString(plain.SerializeToString() + number)])
    assert schema.message_class("new.A")(b="x") is not None  # type: ignore[call-arg]
    assert f'edition = "{edition}";' in _text(schema, "new.proto")


def test_missing_types_are_empty_wherever_they_stand() -> None:
    """Enums with a default, extended messages, types inside types, requests and responses."""
    file = FileDescriptorProto(name="a.proto", package="a", syntax="proto2")
    message = file.message_type.add(name="A")
    message.field.add(
        name="mood", number=1, type=14, type_name=".b.Outer.Mood", label=1, default_value="CALM"
    )
    message.field.add(name="inner", number=2, type=11, type_name=".b.Outer.Inner", label=1)
    message.field.add(name="outer", number=3, type=11, type_name=".b.Outer", label=1)
    file.extension.add(name="more", number=100, type=9, label=1, extendee=".c.Extended")
    file.service.add(name="S").method.add(name="Go", input_type=".None", output_type=".a.A")
    other = FileDescriptorProto(name="d.proto", package="d", syntax="proto3", dependency=["a.proto"])
    other.message_type.add(name="D").field.add(
        name="mood", number=1, type=14, type_name=".b.Outer.Mood", label=1
    )
    schema = Schema()
    schema.add([other, file])
    assert schema.gaps == ["a.proto: no file defines None, b.Outer, b.Outer.Inner, b.Outer.Mood, c.Extended"]
    made: Any = schema.message_class("a.A")(mood=0)  # type: ignore[call-arg]
    made.outer.SetInParent()
    assert to_json(made) == {"mood": "Mood_IS_NOT_KNOWN", "outer": {}}
    assert to_json(schema.message_class("d.D").FromString(b"\x08\x05")) == {"mood": 5}
    assert schema.find_method("Go").request.DESCRIPTOR.full_name == "None"


def test_a_file_that_cannot_be_used_is_told_and_its_neighbours_are_added() -> None:
    broken = FileDescriptorProto(name="broken.proto")
    broken.message_type.add(name="A").field.add(name="b", number=0, type=9, label=1)
    schema = Schema()
    with pytest.raises(SchemaError, match=r"broken.proto cannot be used"):
        schema.add([*shop_files(), broken])
    assert schema.has_message("shop.v1.Money")
    # And again, for the same reason.
    with pytest.raises(SchemaError, match=r"broken.proto cannot be used"):
        schema.add([FileDescriptorProto(name="b.proto", dependency=["broken.proto"]), broken])
    with pytest.raises(SchemaError, match=r"there is no message A"):
        schema.message_class("A")


def test_files_that_import_each_other_are_done_with() -> None:
    files = [FileDescriptorProto(name="a.proto", dependency=["b.proto"])]
    files.append(FileDescriptorProto(name="b.proto", dependency=["a.proto"]))
    schema = Schema()
    schema.add(files)
    assert {file.name for file in schema.files()} >= {"a.proto", "b.proto"}


def _text(schema: Schema, name: str) -> str:
    files = schema.files()
    return file_text(next(file for file in files if file.name == name), Symbols(files))
