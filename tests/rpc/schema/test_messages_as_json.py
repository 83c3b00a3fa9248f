from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from pymicro.rpc.schema import (
    Document,
    JsonError,
    Schema,
    SchemaError,
    UnknownTypes,
    from_json,
    to_json,
    to_raw_json,
)
from tests.described import compile_protos
from tests.shop import PROTOS, shop_schema

SCHEMA = shop_schema()
ORDER = SCHEMA.message_class("shop.v1.Order")
RECEIPT: Any = SCHEMA.message_class("shop.v1.Receipt")
STRING = SCHEMA.message_class("google.protobuf.StringValue")

FULL = {
    "itemName": "hat",
    "amount": "9007199254740993",
    "colour": "COLOUR_RED",
    "prices": {"old": {"currency": "EUR", "minorUnits": "5"}},
    "extras": [{"currency": "EUR"}, {}],
    "note": {"@type": "type.googleapis.com/shop.v1.Gift", "from": "Bob"},
    "at": "2026-01-02T03:04:05Z",
    "raw": "AP8=",
    "gift": True,
    "weight": 0.5,
    "shelf": 4294967295,
    "card": "1234",
}


def test_a_message_survives_the_way_to_json_and_back() -> None:
    assert to_json(from_json(json.dumps(FULL), ORDER)) == FULL


@pytest.mark.parametrize(
    "text",
    [
        '{"item_name": "hat"}',
        '{"itemName": "hat", "amount": 0}',
        '{"itemName": "hat", "amount": null, "extras": null, "note": {}}',
        '\n{"itemName": "hat", "amount": 0.0, "colour": 0}',
    ],
)
def test_fields_are_read_in_every_form_the_mapping_allows(text: str) -> None:
    message: Any = from_json(text, ORDER)
    assert message.item_name == "hat"
    assert message.amount == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"itemNam": "x"}',
            "shop.v1.Order has no field 'itemNam'; did you mean 'itemName'? (fields: itemName,",
        ),
        ('{"extras": [{}, {"currenzy": ""}]}', "extras[1]: shop.v1.Money has no field 'currenzy'; did you"),
        ('{"prices": {"old": {"x": 1}}}', 'prices["old"]: shop.v1.Money has no field'),
        ('{"note": {"@type": "x/shop.v1.Gift", "to": "x"}}', "note: shop.v1.Gift has no field 'to'"),
        ('{"note": {"from": "x"}}', 'note: a google.protobuf.Any needs its "@type"'),
        (
            '{"note": {"@type": "x/google.protobuf.Duration"}}',
            "note: a google.protobuf.Any of google.protobuf.D",
        ),
        ('{"cash": {"minorUnits": []}}', "cash.minorUnits: expected a whole number, found []"),
        ('{"itemName": 5}', "itemName: expected a string, found 5"),
        ('{"raw": 5}', "raw: expected a string (bytes in base64), found 5"),
        ('{"raw": "!!!!"}', 'raw: expected a string (bytes in base64), found "!!!!"'),
        ('{"raw": "AAAAA"}', 'raw: expected a string (bytes in base64), found "AAAAA"'),
        ('{"gift": "true"}', 'gift: expected true or false, found "true"'),
        ('{"amount": 1.5}', "amount: expected a whole number, found 1.5"),
        ('{"amount": true}', "amount: expected a whole number, found true"),
        ('{"amount": "x"}', 'amount: expected a whole number, found "x"'),
        ('{"amount": 1e400}', "amount: expected a whole number, found Infinity"),
        ('{"shelf": -1}', "shelf: expected a whole number from 0 to 4294967295, found -1"),
        ('{"amount": 9223372036854775808}', "amount: expected a whole number from -9223372036854775808 to"),
        ('{"weight": "heavy"}', 'weight: expected a number, found "heavy"'),
        (
            '{"colour": "COLOUR_BED"}',
            "colour: shop.v1.Colour has no value 'COLOUR_BED'; did you mean 'COLOUR_RED'?",
        ),
        ('{"extras": {}}', "extras: expected a list, found {}"),
        ('{"prices": []}', "prices: expected an object (a map), found []"),
        ('{"weight": ' + "9" * 400 + "}", "weight: expected a number from -1.797"),
        ('{"weight": 1e400}', "weight: expected a number from -1.797"),
        ('{"weight": "1e400"}', "weight: expected a number from -1.797"),
        ('{"weight": "inf"}', 'weight: expected a number, found "inf"'),
        ('{"weight": "1_0"}', 'weight: expected a number, found "1_0"'),
        ('{"weight": true}', "weight: expected a number, found true"),
        ('{"amount": "1_0"}', 'amount: expected a whole number, found "1_0"'),
        ('{"amount": " 1"}', 'amount: expected a whole number, found " 1"'),
        ('{"itemName": "\\ud800"}', "itemName: expected a string, found half of a character (\\ud800)"),
        ('{"prices": {"\\udc00": {}}}', "a key of prices: expected a string, found half of a character"),
        ('{"colour": 2147483648}', "colour: expected a whole number from -2147483648 to"),
        ('{"colour": 1.5}', "colour: expected a whole number, found 1.5"),
        ('{"colour": true}', "colour: expected a whole number, found true"),
        ('{"colour": []}', "colour: expected a whole number, found []"),
        ("[]", "expected an object (shop.v1.Order), found []"),
        ("null", "expected an object (shop.v1.Order), found null"),
        ('{"at": "yesterday"}', "at: this is no google.protobuf.Timestamp: Failed to parse timestamp: "),
        ('{"at": {}}', "at: this is no google.protobuf.Timestamp: "),
        ('{"card": "1", "cash": {}}', "this is no shop.v1.Order: "),
        ('{"amount": 1, "amount": 2}', "field 'amount' is there more than once"),
        ('{"weight": NaN}', 'NaN is no JSON; as a number of a message write "NaN" in quotes'),
        ('{"amount": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"extras": ' + "[" * 100_000, "nested too deeply"),
        ('{"raw": "' + "x" * 500 + '", "itemName": {"' + "x" * 500 + '": 1}}', "…"),
    ],
)
def test_json_that_is_not_the_message_is_told_with_place_and_what_would_be(text: str, words: str) -> None:
    with pytest.raises(JsonError) as caught:
        from_json(text, ORDER)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_text_that_is_no_json_is_told_with_line_and_column() -> None:
    with pytest.raises(JsonError, match="this is no JSON") as caught:
        from_json('{\n  "itemName": "x",\n  "amount" 1\n}', ORDER)
    assert (caught.value.line, caught.value.column) == (3, 12)
    # In a longer text the place is the text's.
    with pytest.raises(JsonError) as caught:
        from_json(Document("{'a'}", line=7, column=3), ORDER)
    assert (caught.value.line, caught.value.column) == (7, 4)
    with pytest.raises(JsonError) as caught:
        from_json(Document('{"a": 1}', line=7, column=3), ORDER)
    assert (caught.value.line, caught.value.column) == (7, None)


def test_a_wrapper_is_its_bare_value() -> None:
    assert to_json(from_json('"hat"', STRING)) == "hat"
    with pytest.raises(JsonError, match=r'^expected a string, found {"value": "hat"}$'):
        from_json('{"value": "hat"}', STRING)


def maps() -> Any:
    """A message with a map from numbers to single-precision floats, and one from truth values."""
    parts: list[dict[str, Any]] = []
    for number, name, key, value in ((1, "waits", 5, 2), (2, "flags", 8, 9)):
        fields = [
            {"name": "key", "number": 1, "label": 1, "type": key},
            {"name": "value", "number": 2, "label": 1, "type": value},
        ]
        entry = {"name": f"{name.title()}Entry", "field": fields, "options": {"map_entry": True}}
        type_name = f".Keys.{entry['name']}"
        field = {"name": name, "number": number, "label": 3, "type": 11, "type_name": type_name}
        parts.append({"entry": entry, "field": field})
    message = {
        "name": "Keys",
        "field": [part["field"] for part in parts],
        "nested_type": [part["entry"] for part in parts],
    }
    schema = Schema()
    made: Any = FileDescriptorProto
    schema.add([made(name="keys.proto", syntax="proto3", message_type=[message])])
    return schema.message_class("Keys")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"waits": {"a": 1}}', 'a key of waits: expected a whole number, found "a"'),
        ('{"waits": {"2147483648": 1}}', "a key of waits: expected a whole number from -2147483648 "),
        ('{"waits": {"1": 1, "01": 2}}', 'waits: the keys "1" and "01" are the same'),
        ('{"waits": {"-0": 1, "0": 2}}', 'waits: the keys "-0" and "0" are the same'),
        ('{"waits": {"+1": 1}}', 'a key of waits: expected a whole number, found "+1"'),
        ('{"flags": {"yes": "x"}}', 'a key of flags: expected "true" or "false", found "yes"'),
        # A float of single precision, which is smaller than Python's.
        ('{"waits": {"3": 1e39}}', 'waits["3"]: expected a number from -3.4028234663852886e+38 to '),
        ('{"waits": {"3": "-1e39"}}', 'waits["3"]: expected a number from -3.4028234663852886e+38 to '),
    ],
)
def test_a_maps_keys_and_values_are_told_of_that_do_not_fit(text: str, words: str) -> None:
    with pytest.raises(JsonError) as caught:
        from_json(text, maps())
    assert str(caught.value).startswith(words)


def test_a_maps_keys_are_text_in_json() -> None:
    value = {"waits": {"-3": 0.5, "4": "Infinity"}, "flags": {"true": "x", "false": "y"}}
    assert to_json(from_json(json.dumps(value), maps())) == value


def test_special_numbers_are_strings() -> None:
    assert to_json(from_json('{"weight": "NaN"}', ORDER)) == {"weight": "NaN"}
    assert to_json(from_json('{"weight": "-Infinity"}', ORDER)) == {"weight": "-Infinity"}


def test_an_any_of_unknown_type_is_told_by_name_both_ways() -> None:
    with pytest.raises(UnknownTypes) as caught:
        from_json('{"note": {"@type": "x/not.There"}}', ORDER)
    assert caught.value.names == {"not.There"}
    receipt = RECEIPT()
    receipt.notes.add(type_url="x/not.There", value=b"1")
    receipt.labels["a"].type_url = "x/nor.This"
    with pytest.raises(UnknownTypes) as caught:
        to_json(receipt)
    assert caught.value.names == {"not.There", "nor.This"}
    assert pickle.loads(pickle.dumps(caught.value)).names == caught.value.names


def test_an_any_that_cannot_be_read_is_given_raw() -> None:
    receipt = RECEIPT(text="x")
    receipt.notes.add(type_url="x/shop.v1.Gift", value=b"\n\x03Bob")
    receipt.notes.add(type_url="x/not.There", value=b"\x00\xff")
    receipt.notes.add(type_url="x/shop.v1.Gift", value=b"\xff broken")
    inner = any_pb2.Any(type_url="x/not.There", value=b"")
    receipt.notes.add(type_url="x/google.protobuf.Any", value=inner.SerializeToString())
    receipt.labels["a"].type_url = "x/not.There"
    raw = {"@type": "x/not.There", "@value": "AP8="}
    document, odd = to_raw_json(receipt)
    assert odd == []
    assert document == {
        "text": "x",
        "notes": [
            {"@type": "x/shop.v1.Gift", "from": "Bob"},
            raw,
            {"@type": "x/shop.v1.Gift", "@value": "/yBicm9rZW4="},
            {"@type": "x/google.protobuf.Any", "value": {"@type": "x/not.There", "@value": ""}},
        ],
        "labels": {"a": {"@type": "x/not.There", "@value": ""}},
    }
    assert receipt.notes[1].type_url == "x/not.There"  # the message itself is left alone


def test_generated_messages_of_the_default_pool_have_json_too() -> None:
    assert to_json(duration_pb2.Duration(seconds=3)) == "3s"
    assert from_json('"3s"', duration_pb2.Duration) == duration_pb2.Duration(seconds=3)


def test_a_message_without_a_json_form_is_an_error_that_says_so() -> None:
    with pytest.raises(SchemaError, match=r"a google.protobuf.Timestamp has no JSON form"):
        to_json(timestamp_pb2.Timestamp(seconds=1 << 50))


def test_what_has_no_json_form_is_written_as_it_is_and_all_else_as_ever(tmp_path: Path) -> None:
    """Each kind, in a field, a list, a map, an Any, an extension and by itself."""
    pool = descriptor_pool.DescriptorPool()
    for file in compile_protos(PROTOS, tmp_path / "set", ["odd/odd.proto"], comments=False).values():
        pool.Add(file)
    oddities: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("odd.Oddities"))
    message = oddities()
    message.name, message.count, message.after = "hat", 3, 4
    message.seen.seconds = 1 << 50
    message.seen.nanos = 5
    message.took.seconds = 1 << 60
    message.mask.paths.extend(["a_b", "fooBar"])
    message.times.add(seconds=1)
    message.times.add(seconds=-(1 << 50))
    message.by_name["late"].seconds = 1 << 50
    message.by_flag[True].seconds = 1
    message.numbers["a"] = 1
    message.value.struct_value.fields["deep"].list_value.values.add(number_value=math.nan)
    message.value.struct_value.fields["fine"].number_value = 0.5
    message.any.value = b"\x01"
    message.packed.type_url = "x/google.protobuf.Timestamp"
    message.packed.value = timestamp_pb2.Timestamp(seconds=1 << 50).SerializeToString()
    message.child.seen.seconds = 1 << 50
    message.child.packed.Pack(oddities(mask={"paths": ["A"]}))
    message.Extensions[pool.FindExtensionByName("odd.more")].seconds = 1 << 50
    document, odd = to_raw_json(message)
    assert document == {
        "name": "hat",
        "seen": {"seconds": "1125899906842624", "nanos": "5"},
        "took": {"seconds": "1152921504606846976"},
        "mask": {"paths": ["a_b", "fooBar"]},
        "times": ["1970-01-01T00:00:01Z", {"seconds": "-1125899906842624"}],
        "byName": {"late": {"seconds": "1125899906842624"}},
        "byFlag": {"true": "1970-01-01T00:00:01Z"},
        "value": {"deep": ["nan"], "fine": 0.5},
        "any": {"@type": "", "@value": "AQ=="},
        "packed": {"@type": "x/google.protobuf.Timestamp", "value": {"seconds": "1125899906842624"}},
        "child": {
            "seen": {"seconds": "1125899906842624"},
            "packed": {"@type": "type.googleapis.com/odd.Oddities", "mask": {"paths": ["A"]}},
        },
        "count": "3",
        "numbers": {"a": 1},
        "after": 4,
        "[odd.more]": {"seconds": "1125899906842624"},
    }
    assert list(document)[:3] == ["name", "seen", "took"]
    assert [line.partition(" (")[0] for line in odd] == [
        "seen",
        "took",
        "mask",
        "times[1]",
        "byName[late]",
        "value.deep[0]",
        "any",
        "packed",
        "child.seen",
        "child.packed.mask",
        "[odd.more]",
    ]
    with pytest.raises(SchemaError):
        to_json(message)


def test_a_json_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(JsonError("no", 3, 4)))
    assert (str(error), error.line, error.column) == ("no", 3, 4)
