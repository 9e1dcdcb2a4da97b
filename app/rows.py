"""Many rows in one statement, and statements that are built once.

To put a statement together costs SQLAlchemy as much processor time as to execute it. So those that
every job needs are built when their module is loaded, with parameters for what differs.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import Insert, Table, TableValuedAlias, bindparam, column, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.db import Base

Row = Mapping[str, Any]


def given(parameter: str, **columns: Any) -> TableValuedAlias:
    """Rows as a table in a statement, with the SQL type of each column.

    They are a parameter of the statement, by this name: a list of mappings, which travels as one
    JSON value, so that the statement is the same however many there are.
    """
    return (
        func.jsonb_to_recordset(bindparam(parameter, type_=JSONB))
        .table_valued(*(column(name, kind) for name, kind in columns.items()), name="given")
        .render_derived(with_types=True)
    )


def store(session: Session, *tables: tuple[type[Base], Sequence[Row]]) -> None:
    """INSERT rows into tables, in one statement. The rows of a table all have the same keys (column
    names); a column left out gets its default.
    """
    filled = [(table, rows) for table, rows in tables if rows]
    if filled:
        statement = _inserts(tuple((table, tuple(rows[0])) for table, rows in filled))
        session.execute(statement, {table.__tablename__: list(rows) for table, rows in filled})


@cache
def _inserts(tables: tuple[tuple[type[Base], tuple[str, ...]], ...]) -> Insert:
    *others, last = [_insert(table, names) for table, names in tables]
    return last.add_cte(*(each.cte() for each in others))


def _insert(table: type[Base], names: tuple[str, ...]) -> Insert:
    target = cast(Table, table.__table__)
    types = {name: target.c[name].type for name in names}
    return insert(target).from_select(names, select(given(table.__tablename__, **types)))
