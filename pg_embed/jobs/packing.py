"""Arrays in PostgreSQL's binary format, packed whole by numpy: value by value would cost more than the model.

Format of an array: dimensions, has-null flag and element type as int32; length and lower bound of each
dimension; then each element as its length and its bytes, -1 for NULL (PostgreSQL, array_recv). A row: how
many columns as int32, then type, length and bytes of each (record_recv). Vector and halfvec: dimensions and
zero as int16, then the numbers; sparsevec: dimensions, how many numbers and zero as int32, then the indices,
from 0, as int32, then the numbers (pgvector, vector_recv, halfvec_recv and sparsevec_recv).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format

from pg_embed.records import SparseVectors, TokenVectors

TEXT, TEXT_ARRAY = 25, 1009  # oids, pg_type.dat
BIGINT, BIGINT_ARRAY = 20, 1016
BYTEA, BYTEA_ARRAY = 17, 1001
UUID, UUID_ARRAY = 2950, 2951
NULL = b"\xff\xff\xff\xff"
NUMBERS = {"vector": ">f4", "halfvec": ">f2"}

Types = Mapping[str, tuple[int, int]]  # the oids of a type, and of arrays of it


class PackedArray:
    """The bytes of an array, and the oid of its type."""

    __slots__ = ("data", "oid")

    def __init__(self, oid: int, data: bytes) -> None:
        self.oid = oid
        self.data = data


class PackedArrayDumper(Dumper):
    """Hands the bytes to the server as they are."""

    format = Format.BINARY

    def get_key(self, obj: PackedArray, format: PyFormat) -> Any:
        return (self.cls, obj.oid)

    def upgrade(self, obj: PackedArray, format: PyFormat) -> PackedArrayDumper:
        dumper = PackedArrayDumper(self.cls)
        dumper.oid = obj.oid
        return dumper

    def dump(self, obj: PackedArray) -> bytes:
        return obj.data


def register(connection: psycopg.AsyncConnection[Any]) -> None:
    """Let a connection send packed arrays."""
    connection.adapters.register_dumper(PackedArray, PackedArrayDumper)


def _head(count: int, element: int, has_null: bool) -> bytes:
    return (
        struct.pack(">iiiii", 1, int(has_null), element, count, 1)
        if count
        else struct.pack(">iii", 0, 0, element)
    )


def texts(values: Sequence[str]) -> PackedArray:
    """A text[]."""
    encoded = [value.encode() for value in values]
    return PackedArray(TEXT_ARRAY, _head(len(encoded), TEXT, False) + _lengthy(encoded))


def blobs(values: Sequence[bytes]) -> PackedArray:
    """A bytea[]."""
    return PackedArray(BYTEA_ARRAY, _head(len(values), BYTEA, False) + _lengthy(values))


def rows(matrix: npt.NDArray[np.float32], number: np.dtype[Any]) -> PackedArray:
    """A bytea[] of the rows of a matrix, in numbers of this kind."""
    count, columns = matrix.shape
    body = np.empty(count, dtype=[("length", ">i4"), ("row", number, (columns,))])
    body["length"] = columns * number.itemsize
    body["row"] = matrix
    return PackedArray(BYTEA_ARRAY, _head(count, BYTEA, False) + body.tobytes())


def uuids(values: Sequence[bytes]) -> PackedArray:
    """A uuid[], of 16 bytes each."""
    body = np.empty(len(values), dtype=[("length", ">i4"), ("value", "V16")])
    body["length"] = 16
    body["value"] = np.frombuffer(b"".join(values), "V16")
    return PackedArray(UUID_ARRAY, _head(len(values), UUID, False) + body.tobytes())


def bigints(values: Sequence[int], nulls: int = 0) -> PackedArray:
    """A bigint[], with so many NULLs behind the values."""
    body = np.empty(len(values), dtype=[("length", ">i4"), ("value", ">i8")])
    body["length"] = 8
    body["value"] = values
    return PackedArray(
        BIGINT_ARRAY, _head(len(values) + nulls, BIGINT, nulls > 0) + body.tobytes() + NULL * nulls
    )


def vectors(
    matrix: npt.NDArray[np.float32], kind: str, element: int, array: int, nulls: int = 0
) -> PackedArray:
    """An array of vector or halfvec; `kind` says which, `element` and `array` are the oids."""
    count = len(matrix)
    body = _numbers(matrix, kind)
    return PackedArray(array, _head(count + nulls, element, nulls > 0) + body + NULL * nulls)


def sparse(found: SparseVectors, dimensions: int, element: int, array: int, nulls: int = 0) -> PackedArray:
    """An array of sparsevec."""
    parts = []
    for row in range(len(found)):
        indices, values = found.row(row)
        count = len(indices)
        parts.append(struct.pack(">iiii", 12 + 8 * count, dimensions, count, 0))
        parts.append(indices.astype(">i4").tobytes() + values.astype(">f4").tobytes())
    return PackedArray(array, _head(len(found) + nulls, element, nulls > 0) + b"".join(parts) + NULL * nulls)


def multi(found: TokenVectors, types: Types, nulls: int = 0) -> PackedArray:
    """An array of rows of one column, which is an array of halfvec."""
    halfvec, halfvecs = types["halfvec"]
    row_type, rows = types["_token_vectors"]
    parts = []
    for row in range(len(found)):
        vectors = found.row(row)
        body = _head(len(vectors), halfvec, False) + _numbers(vectors, "halfvec")
        parts.append(struct.pack(">iiii", 12 + len(body), 1, halfvecs, len(body)) + body)
    return PackedArray(rows, _head(len(found) + nulls, row_type, nulls > 0) + b"".join(parts) + NULL * nulls)


def _lengthy(values: Sequence[bytes]) -> bytes:
    return b"".join([part for value in values for part in (len(value).to_bytes(4, "big"), value)])


def _numbers(matrix: npt.NDArray[np.float32], kind: str) -> bytes:
    """Each row as an element of an array."""
    count, dimensions = matrix.shape
    number = NUMBERS[kind]
    size = np.dtype(number).itemsize
    body = np.empty(
        count, dtype=[("length", ">i4"), ("dim", ">i2"), ("zero", ">i2"), ("numbers", number, (dimensions,))]
    )
    body["length"] = 4 + size * dimensions
    body["dim"] = dimensions
    body["zero"] = 0
    body["numbers"] = matrix
    return body.tobytes()
