"""Rows on disk: one Parquet file a kind of row, whose columns are the row's fields, in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyarrow import parquet

from potluck.aggregation.errors import PotluckError
from potluck.client.home import store
from potluck.simulations.rows import ClientRow, RoundRow, UpdateRow

TYPES: Final[Mapping[type, Any]] = MappingProxyType(
    {bool: pa.bool_(), float: pa.float64(), int: pa.int64(), str: pa.string()}
)

Row = TypeVar("Row", RoundRow, UpdateRow, ClientRow)

ROUNDS: Final = "rounds.parquet"
UPDATES: Final = "updates.parquet"
CLIENTS: Final = "clients.parquet"


class BadTable(PotluckError):
    """A file of rows that is missing, is no Parquet, or holds other columns than its rows have."""


def write_rows(path: Path, rows: Sequence[Row], kind: type[Row]) -> None:
    """Put *rows*, all of *kind*, at *path*: after a crash there is the old file or the new one, whole.

    Raises:
        TypeError: a field holds something else than the row says, None included.
        DiskFull: there is no room; the old file is as it was.
    """
    columns = [_column([getattr(row, field.name) for row in rows], field.name, field.type) for field in fields(kind)]
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns, schema=schema(kind)), buffer, compression="zstd")
    store(buffer.getvalue().to_pybytes(), path)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Return the rows of *kind* at *path*, in their order.

    Raises:
        BadTable: there is no such file, it is no Parquet, or its columns are not the fields of *kind*.
    """
    try:
        table = parquet.read_table(pa.BufferReader(path.read_bytes()))
    except OSError as error:
        why = error.strerror or "it is no whole Parquet file"
        raise BadTable(f"{path} cannot be read: {why}", fix="name the folder of a run of `potluck simulate`") from None
    except pa.ArrowInvalid as error:
        raise BadTable(f"{path} is no Parquet file: {error}", fix="repeat the run: it is damaged") from None
    _check(table, path, kind)
    return [kind(**row) for row in table.to_pylist()]


def schema(kind: type[Any]) -> Any:  # noqa: ANN401 - a pyarrow.Schema, which mypy does not follow
    """Return the Parquet schema of rows of *kind*: no column may be empty anywhere."""
    return pa.schema([pa.field(field.name, TYPES[_plain(field.type)], nullable=False) for field in fields(kind)])


def _plain(kind: object) -> type:
    if not isinstance(kind, type) or kind not in TYPES:
        raise TypeError(f"a row's field is {kind!r}; rows hold bool, float, int and str")
    return kind


def _column(values: Sequence[Any], name: str, kind: object) -> Any:  # noqa: ANN401 - a pyarrow.Array
    """Return *values* as a column: a number of NumPy, or a whole number for a float, would change type on its way."""
    for value in values:
        if type(value) is not kind:
            raise TypeError(f"{name} holds {value!r}, a {type(value).__name__}; its row says {kind!r}")
    return pa.array(values, TYPES[_plain(kind)])


def _check(table: Any, path: Path, kind: type[Any]) -> None:  # noqa: ANN401 - a pyarrow.Table
    """Refuse columns that are not the fields of *kind*, in their order and of their types."""
    expected = [(field.name, str(field.type)) for field in schema(kind)]
    found = [(field.name, str(field.type)) for field in table.schema]
    if found != expected:
        missing = [name for name, _ in expected if name not in dict(found)]
        unknown = [name for name, _ in found if name not in dict(expected)]
        other = [f"{name} is {dict(found)[name]}" for name, of in expected if dict(found).get(name, of) != of]
        parts = [("it lacks", missing), ("it also has", unknown), ("other types:", other)]
        told = "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names) or "their order differs"
        raise BadTable(
            f"{path} does not hold the {len(expected)} columns of {kind.__name__}: {told}",
            fix="read it with the version of Potluck that wrote it, or repeat the run",
        )
    holes = [name for name in table.column_names if table.column(name).null_count]
    if holes:
        raise BadTable(f"{path} has rows without {', '.join(holes)}", fix="repeat the run: Potluck writes no such rows")
