from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from pymicro.rpc.schema import MethodNotFound, Schema, SchemaError
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


def test_a_missing_import_is_named_with_who_imports_it() -> None:
    schema = Schema()
    with pytest.raises(SchemaError, match=r"shop/v1/shop.proto imports shop/v1/money.proto, which is not"):
        schema.add(file for file in shop_files() if file.name != "shop/v1/money.proto")
    schema.add(shop_files())  # what failed has left nothing behind
    assert schema.has_message("shop.v1.Money")


def test_files_that_import_each_other_are_refused() -> None:
    files = [FileDescriptorProto(name="a.proto", dependency=["b.proto"])]
    files.append(FileDescriptorProto(name="b.proto", dependency=["a.proto"]))
    with pytest.raises(SchemaError, match=r"b.proto imports a.proto"):
        Schema().add(files)


def test_a_file_that_makes_no_sense_is_refused() -> None:
    broken = FileDescriptorProto(name="broken.proto")
    broken.message_type.add(name="A").field.add(name="b", number=1, type=11, type_name=".not.There", label=1)
    with pytest.raises(SchemaError, match=r"broken.proto cannot be used"):
        Schema().add([broken])
    with pytest.raises(SchemaError, match=r"there is no message A"):
        Schema().message_class("A")
