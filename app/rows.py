"""Many rows in one statement."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Insert, Table, TableValuedAlias, bindparam, column, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.db import Base


def given(rows: Sequence[Mapping[str, Any]], **columns: Any) -> TableValuedAlias:
    """Rows as a table in a statement, with the SQL type of each column.

    They travel as one JSON parameter, so that the statement is the same, and compiled once,
    however many there are.
    """
    return (
        func.jsonb_to_recordset(bindparam(None, list(rows), JSONB))
        .table_valued(*(column(name, kind) for name, kind in columns.items()), name="given")
        .render_derived(with_types=True)
    )


def store(session: Session, *tables: tuple[type[Base], Sequence[Mapping[str, Any]]]) -> None:
    """INSERT rows into tables, in one statement. The rows of a table all have the same keys (column
    names); a column left out gets its default.
    """
    inserts = [_insert(table, rows) for table, rows in tables if rows]
    if inserts:
        *others, last = inserts
        session.execute(last.add_cte(*(each.cte() for each in others)))


def _insert(table: type[Base], rows: Sequence[Mapping[str, Any]]) -> Insert:
    target = cast(Table, table.__table__)
    types = {name: target.c[name].type for name in rows[0]}
    return insert(target).from_select(list(types), select(given(rows, **types)))
