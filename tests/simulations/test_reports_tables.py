"""Rows on disk: what is written is read, bit by bit, and nothing else is taken for it."""

import dataclasses
import math
import os
import resource
import struct
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from potluck.client.home import DiskFull
from potluck.simulations.reports.tables import BadTable, read_rows, schema, write_rows
from potluck.simulations.rows import ClientRow, RoundRow, UpdateRow

KINDS = (RoundRow, UpdateRow, ClientRow)
VALUES = {
    bool: st.booleans(),
    float: st.floats(),
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.text(st.characters(exclude_categories=["Cs"])),
}
CLIENT = ClientRow(
    client="Hamlet",
    device="laptop",
    rank=4,
    examples=3,
    bytes_of_text=100,
    hostile=False,
    leases=2,
    counted=1,
    loss_base=2.5,
    loss=math.nan,
)


def bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value


def rows_of(kind: type):
    return st.builds(kind, **{field.name: VALUES[field.type] for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_is_written_is_read_again(kind: type, tmp_path_factory, data):
    """NaN, infinities, -0.0 and names in any script among it; no rows at all too."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    rows = data.draw(st.lists(rows_of(kind), max_size=4))

    write_rows(path, rows, kind)

    again = read_rows(path, kind)
    assert [[*map(bits, dataclasses.astuple(row))] for row in again] == [
        [*map(bits, dataclasses.astuple(row))] for row in rows
    ]
    assert all(type(row) is kind for row in again)


def test_a_field_of_another_type_is_refused_and_the_old_file_stays(tmp_path: Path):
    """A whole number for a loss would be read as another type; None would be a hole."""
    path = tmp_path / "clients.parquet"
    write_rows(path, [CLIENT], ClientRow)
    for wrong in ({"loss": 2}, {"loss": None}, {"rank": 4.0}, {"rank": True}, {"hostile": 1}, {"client": b"Hamlet"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            write_rows(path, [dataclasses.replace(CLIENT, **wrong)], ClientRow)

    assert [row.client for row in read_rows(path, ClientRow)] == ["Hamlet"]


def test_where_there_is_no_room_the_old_file_stays(tmp_path: Path):
    """The kernel refuses the write itself: a limit on the size of files."""
    path = tmp_path / "clients.parquet"
    write_rows(path, [CLIENT], ClientRow)
    many = [dataclasses.replace(CLIENT, client=os.urandom(50).hex()) for _ in range(1000)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskFull, match="no room for"):
            write_rows(path, many, ClientRow)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert len(read_rows(path, ClientRow)) == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def altered(case: str) -> pa.Table:
    """Return a table that is almost one of clients."""
    table = pa.Table.from_pylist([dataclasses.asdict(CLIENT)], schema=schema(ClientRow))
    match case:
        case "a column lacks":
            return table.drop_columns(["loss"])
        case "a column more":
            return table.append_column("age", [[3]])
        case "another type":
            return table.set_column(2, "rank", pa.array([4.0]))
        case "another order":
            return table.select([*reversed(table.column_names)])
        case "a hole":
            return table.set_column(2, "rank", pa.array([None], pa.int64()))
    raise KeyError(case)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("a column lacks", "it lacks loss"),
        ("a column more", "it also has age"),
        ("another type", "other types: rank is double"),
        ("another order", "their order differs"),
        ("a hole", "has rows without rank"),
    ],
)
def test_a_table_of_other_columns_is_refused_with_their_names(tmp_path: Path, case: str, said: str):
    path = tmp_path / "clients.parquet"
    parquet.write_table(altered(case), path)

    with pytest.raises(BadTable, match=said) as refused:
        read_rows(path, ClientRow)
    assert refused.value.__notes__


def test_one_kind_of_row_is_not_read_as_another(tmp_path: Path):
    path = tmp_path / "clients.parquet"
    write_rows(path, [CLIENT], ClientRow)

    with pytest.raises(BadTable, match="columns of RoundRow"):
        read_rows(path, RoundRow)


@pytest.mark.parametrize("case", ["missing", "a folder", "text", "cut short", "empty"])
def test_what_is_no_table_is_said_with_its_path(tmp_path: Path, case: str):
    path = tmp_path / "clients.parquet"
    write_rows(path, [CLIENT], ClientRow)
    whole = path.read_bytes()
    path.unlink()
    if case == "a folder":
        path.mkdir()
    elif case != "missing":
        path.write_bytes({"text": b"client,device\n", "cut short": whole[: len(whole) // 2], "empty": b""}[case])

    with pytest.raises(BadTable, match=path.name):
        read_rows(path, ClientRow)
