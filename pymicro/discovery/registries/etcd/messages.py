"""etcd's messages and methods, built at run time in a pool of their own.

The field numbers are those of etcd's `rpc.proto` and `kv.proto` (API v3). Only the fields and
messages that we use are here. Generated code would refuse older runtimes, and in protobuf's
default pool it would clash with any other etcd client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "AUTHENTICATE",
    "LEASE_GRANT",
    "LEASE_KEEP_ALIVE",
    "LEASE_REVOKE",
    "MEMBER_LIST",
    "PUT",
    "RANGE",
    "STATUS",
    "TXN",
    "WATCH",
    "EtcdMethod",
    "message",
]

_PACKAGE = "etcdserverpb"

# A field is `type name number`; * after the type means repeated. Enums are int32 here and
# members of a oneof are plain fields: on the wire they are the same.
_MESSAGES: Mapping[str, str] = {
    "ResponseHeader": "uint64 cluster_id 1, uint64 member_id 2, int64 revision 3",
    "KeyValue": "bytes key 1, int64 mod_revision 3, int64 version 4, bytes value 5, int64 lease 6",
    "Event": "int32 type 1, KeyValue kv 2",
    "RangeRequest": "bytes key 1, bytes range_end 2, int64 limit 3, int64 revision 4, bool keys_only 8",
    "RangeResponse": "ResponseHeader header 1, KeyValue* kvs 2, bool more 3, int64 count 4",
    "PutRequest": "bytes key 1, bytes value 2, int64 lease 3",
    "PutResponse": "ResponseHeader header 1",
    "DeleteRangeRequest": "bytes key 1",
    "Compare": (
        "int32 result 1, int32 target 2, bytes key 3, int64 mod_revision 6, bytes value 7, int64 lease 8"
    ),
    "RequestOp": "DeleteRangeRequest request_delete_range 3",
    "TxnRequest": "Compare* compare 1, RequestOp* success 2",
    "TxnResponse": "ResponseHeader header 1, bool succeeded 2",
    "LeaseGrantRequest": "int64 TTL 1",
    "LeaseGrantResponse": "ResponseHeader header 1, int64 ID 2, int64 TTL 3",
    "LeaseRevokeRequest": "int64 ID 1",
    "LeaseRevokeResponse": "ResponseHeader header 1",
    "LeaseKeepAliveRequest": "int64 ID 1",
    "LeaseKeepAliveResponse": "ResponseHeader header 1, int64 ID 2, int64 TTL 3",
    "WatchCreateRequest": (
        "bytes key 1, bytes range_end 2, int64 start_revision 3, bool progress_notify 4, bool fragment 8"
    ),
    "WatchProgressRequest": "",
    "WatchRequest": "WatchCreateRequest create_request 1, WatchProgressRequest progress_request 3",
    "WatchResponse": (
        "ResponseHeader header 1, int64 watch_id 2, bool created 3, bool canceled 4, "
        "int64 compact_revision 5, string cancel_reason 6, bool fragment 7, Event* events 11"
    ),
    "AuthenticateRequest": "string name 1, string password 2",
    "AuthenticateResponse": "ResponseHeader header 1, string token 2",
    "MemberListRequest": "",
    "Member": "uint64 ID 1, string* clientURLs 4, bool isLearner 5",
    "MemberListResponse": "ResponseHeader header 1, Member* members 2",
    "StatusRequest": "",
    "StatusResponse": (
        "ResponseHeader header 1, string version 2, uint64 leader 4, string* errors 8, bool isLearner 10"
    ),
}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint64": _Field.TYPE_UINT64,
}


def _build() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="pymicro/registry/etcd.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for text in filter(None, fields.split(", ")):
            kind, field_name, number = text.split()
            repeated, kind = kind.endswith("*"), kind.removesuffix("*")
            field = described.field.add(
                name=field_name,
                number=int(number),
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            )
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _build()


def message(kind: str, /, **fields: Any) -> Any:
    """A message of this kind with these fields."""
    return _CLASSES[kind](**fields)


@dataclass(frozen=True, slots=True)
class EtcdMethod:
    """One of etcd's RPC methods.

    Attributes:
        path: The path on the wire.
        response: The class of its responses.
    """

    path: str
    response: Any


RANGE = EtcdMethod("/etcdserverpb.KV/Range", _CLASSES["RangeResponse"])
PUT = EtcdMethod("/etcdserverpb.KV/Put", _CLASSES["PutResponse"])
TXN = EtcdMethod("/etcdserverpb.KV/Txn", _CLASSES["TxnResponse"])
LEASE_GRANT = EtcdMethod("/etcdserverpb.Lease/LeaseGrant", _CLASSES["LeaseGrantResponse"])
LEASE_REVOKE = EtcdMethod("/etcdserverpb.Lease/LeaseRevoke", _CLASSES["LeaseRevokeResponse"])
LEASE_KEEP_ALIVE = EtcdMethod("/etcdserverpb.Lease/LeaseKeepAlive", _CLASSES["LeaseKeepAliveResponse"])
WATCH = EtcdMethod("/etcdserverpb.Watch/Watch", _CLASSES["WatchResponse"])
MEMBER_LIST = EtcdMethod("/etcdserverpb.Cluster/MemberList", _CLASSES["MemberListResponse"])
AUTHENTICATE = EtcdMethod("/etcdserverpb.Auth/Authenticate", _CLASSES["AuthenticateResponse"])
STATUS = EtcdMethod("/etcdserverpb.Maintenance/Status", _CLASSES["StatusResponse"])
