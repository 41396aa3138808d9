"""The messages of GreptimeDB's protocol that we need, made when this is imported: there are no generated files.

Field numbers are those of greptime/v1 (database.proto, common.proto, row.proto). Rows are not among them: `rows.py`
writes those as bytes, which are appended here. In protobuf, a field is the same however its bytes were made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from eventrec_handlers.greptimedb.columns import datatype, extension, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventrec import ColumnSchema
    from eventrec_handlers.greptimedb.columns import JsonForm

HANDLE: Final = "/greptime.v1.GreptimeDatabase/Handle"

_PACKAGE: Final = "greptime.v1"
_ONEOF: Final = "~"
"""Before the name of a field that is one of several, of which a message has one at most."""

_MESSAGES: Final[Mapping[str, Sequence[tuple[int, str, str]]]] = {
    "Basic": ((1, "username", "string"), (2, "password", "string")),
    "AuthHeader": ((1, "~basic", "Basic"),),
    "RequestHeader": (
        (1, "catalog", "string"),
        (2, "schema", "string"),
        (3, "authorization", "AuthHeader"),
        (4, "dbname", "string"),
    ),
    "DecimalTypeExtension": ((1, "precision", "int32"), (2, "scale", "int32")),
    "VectorTypeExtension": ((1, "dim", "uint32"),),
    "ColumnDataTypeExtension": (
        (1, "~decimal_type", "DecimalTypeExtension"),
        (2, "~json_type", "int32"),  # an enum: the bytes are the same, and its zero is written
        (3, "~vector_type", "VectorTypeExtension"),
    ),
    "ColumnSchema": (
        (1, "column_name", "string"),
        (2, "datatype", "int32"),  # an enum, like the next one
        (3, "semantic_type", "int32"),
        (4, "datatype_extension", "ColumnDataTypeExtension"),
    ),
    "Rows": ((1, "schema", "repeated ColumnSchema"),),
    "Status": ((1, "status_code", "uint32"), (2, "err_msg", "string")),
    "ResponseHeader": ((1, "status", "Status"),),
    "AffectedRows": ((1, "value", "uint32"),),
    "GreptimeResponse": ((1, "header", "ResponseHeader"), (2, "~affected_rows", "AffectedRows")),
}
"""Number, name and type of each field."""


def _made() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="eventrec/greptime.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if any(field.startswith(_ONEOF) for _, field, _ in fields):
            message.oneof_decl.add(name="one")
        for number, field, kind in fields:
            _add_field(message, number, field, kind)
    # A pool of our own: the application may have the generated files of another client in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    _, is_repeated, type_name = kind.rpartition("repeated ")
    field = message.field.add(name=name.removeprefix(_ONEOF), number=number)
    proto = descriptor_pb2.FieldDescriptorProto
    field.label = proto.LABEL_REPEATED if is_repeated else proto.LABEL_OPTIONAL
    if name.startswith(_ONEOF):
        field.oneof_index = 0
    if type_name in _MESSAGES:
        field.type, field.type_name = proto.TYPE_MESSAGE, f".{_PACKAGE}.{type_name}"
    else:
        field.type = {"string": proto.TYPE_STRING, "int32": proto.TYPE_INT32, "uint32": proto.TYPE_UINT32}[type_name]


_CLASSES: Final = _made()


class IllegalResponseError(Exception):
    """An answer is not one of GreptimeDB's."""


def header(database: str, *, catalog: str, schema: str, user: str | None, password: str | None) -> bytes:
    """What a request begins with: where it goes to, and who sends it. `database` counts before the other two."""
    made = _CLASSES["RequestHeader"](catalog=catalog, schema=schema, dbname=database)
    if user is not None:
        made.authorization.basic.username = user
        made.authorization.basic.password = password or ""
        made.authorization.basic.SetInParent()
    encoded: bytes = made.SerializeToString()
    return _field(1, encoded)


def schema_of_rows(columns: Iterable[tuple[ColumnSchema, int]], *, json: JsonForm) -> bytes:
    """What Rows begin with: each column and what it is for, by its number."""
    made = _CLASSES["Rows"]()
    for column, semantic in columns:
        made.schema.add(
            column_name=column.name,
            datatype=datatype(column, json),
            semantic_type=semantic,
            datatype_extension=extension(column, json),
        )
    encoded: bytes = made.SerializeToString()
    return encoded


def request(header: bytes, table: str, schema: bytes, rows: Sequence[bytes]) -> bytes:
    """A GreptimeRequest with row inserts for one table; `rows` are bytes of repeated fields of Rows."""
    name = _field(1, table.encode())
    size = len(schema) + sum(map(len, rows))
    head = b"\x12" + varint(size)
    insert = len(name) + len(head) + size
    inserts = 1 + len(varint(insert)) + insert
    return b"".join((header, b"\x32", varint(inserts), b"\x0a", varint(insert), name, head, schema, *rows))


def affected_rows(answer: bytes) -> tuple[int, str, int]:
    """The status code of an answer, its message, and how many rows were written.

    Raises:
        IllegalResponseError: It is not an answer of GreptimeDB, or says neither how it went nor how many they are.
    """
    try:
        response = _CLASSES["GreptimeResponse"].FromString(answer)
    except DecodeError:
        raise IllegalResponseError(f"an answer of {len(answer)} bytes is not one of GreptimeDB's") from None
    if not (response.HasField("header") and response.header.HasField("status")):
        raise IllegalResponseError("an answer has no status")
    status = response.header.status
    if not status.status_code and not response.HasField("affected_rows"):
        raise IllegalResponseError("an answer does not say how many rows were written")
    return status.status_code, status.err_msg, response.affected_rows.value


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content
