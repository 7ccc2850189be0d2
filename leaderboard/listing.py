"""A table that the reader arranges: columns, order and page in the address, and its rows to take away."""

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd
import streamlit as st

from leaderboard.palette import GREY
from leaderboard.text import short

ROWS: Final = 200
ABSENT: Final = "–"
AS_IT_COMES: Final = "as it comes"

Kind = Literal["csv", "json", "parquet"]
_KINDS: Final[tuple[tuple[Kind, str, str], ...]] = (
    ("csv", "CSV", "text/csv"),
    ("json", "JSON", "application/json"),
    ("parquet", "Parquet", "application/vnd.apache.parquet"),
)


@dataclass(frozen=True)
class Column:
    """One column: its name in the data, its heading, and what it means.

    `digits` is how a number is written ("%.4g"); a "link" shows what `shown` finds in its address.
    """

    name: str
    heading: str
    help: str = ""
    kind: Literal["text", "number", "time", "link", "flag"] = "text"
    digits: str = "%.4g"
    shown: str = ""
    is_usual: bool = True

    def config(self) -> Any:
        """As Streamlit draws it."""
        help_ = self.help or None
        if self.kind == "number":
            return st.column_config.NumberColumn(self.heading, help=help_, format=self.digits)
        if self.kind == "time":
            return st.column_config.DatetimeColumn(self.heading, help=help_, format="YYYY-MM-DD HH:mm")
        if self.kind == "link":
            return st.column_config.LinkColumn(self.heading, help=help_, display_text=self.shown)
        if self.kind == "flag":
            return st.column_config.CheckboxColumn(self.heading, help=help_)
        return st.column_config.TextColumn(self.heading, help=help_)


def listing(found: pd.DataFrame, columns: Sequence[Column], key: str, greyed: Sequence[str] = ()) -> None:
    """Draw the rows with the columns that were chosen; `key` begins the names of its settings in the address.

    The cells of the columns `greyed` are grey where `found["is_grey"]`.  A long table comes in pages.
    """
    chosen, arranged = _arranged(found, columns, key)
    page = _page(arranged, key)
    shown = shortened(page[[column.name for column in chosen]])
    styled = [name for name in greyed if name in shown]
    st.dataframe(
        _greyed(shown, page["is_grey"], styled) if styled else shown,
        hide_index=True,
        placeholder=ABSENT,
        column_config={column.name: column.config() for column in chosen},
    )
    _downloads(arranged[[column.name for column in chosen]], key)


def shortened(found: pd.DataFrame) -> pd.DataFrame:
    """The rows with every text as short and harmless as a cell wants it."""
    texts = found.select_dtypes(exclude=["number", "bool", "datetimetz"])
    cells = {str(name): [short(value) if isinstance(value, str) else value for value in texts[name]] for name in texts}
    return found.assign(**cells)


def as_bytes(found: pd.DataFrame, kind: Kind) -> bytes:
    """The rows as a file; what was not measured is empty in CSV and null elsewhere."""
    if kind == "csv":
        return found.to_csv(index=False).encode()
    if kind == "json":
        return (found.to_json(orient="records", date_format="iso", indent=1) or "").encode()
    buffer = io.BytesIO()
    found.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _arranged(found: pd.DataFrame, columns: Sequence[Column], key: str) -> tuple[list[Column], pd.DataFrame]:
    by_name = {column.name: column for column in columns}

    def heading(name: str) -> str:
        return by_name[name].heading if name in by_name else name

    with st.popover("Columns and order"):
        wanted = st.multiselect(
            "Columns",
            list(by_name),
            default=[column.name for column in columns if column.is_usual and not _is_empty_text(found, column)],
            format_func=heading,
            key=f"{key}_columns",
            bind="query-params",
        )
        orders = [AS_IT_COMES, *by_name]
        order = st.selectbox("Order by", orders, format_func=heading, key=f"{key}_order", bind="query-params")
        descends = st.toggle("Largest first", key=f"{key}_descending", bind="query-params")
    if order != AS_IT_COMES:
        found = found.sort_values(order, ascending=not descends, kind="stable", na_position="last")
    return [column for column in columns if column.name in wanted] or [columns[0]], found


def _is_empty_text(found: pd.DataFrame, column: Column) -> bool:
    """Such a column would push what there is out of sight."""
    return column.kind == "text" and bool(found[column.name].isna().all())


def _page(arranged: pd.DataFrame, key: str) -> pd.DataFrame:
    pages = -(-len(arranged) // ROWS)
    if pages <= 1:
        return arranged
    label = f"Page of {pages}, {ROWS} rows each, {len(arranged):,} in all"
    page = st.number_input(label, 1, pages, key=f"{key}_page", bind="query-params", width=320)
    return arranged.iloc[(page - 1) * ROWS : page * ROWS]


def _greyed(shown: pd.DataFrame, is_grey: pd.Series, columns: Sequence[str]) -> Any:
    grey = [f"color: {GREY}" if each else "" for each in is_grey]
    return shown.style.apply(lambda _: grey, subset=list(columns))


def _downloads(rows: pd.DataFrame, key: str) -> None:
    """All rows that pass, on whatever page, with the columns that are shown; made when they are asked for."""
    with st.container(horizontal=True):
        for kind, name, mime in _KINDS:
            st.download_button(
                f"Download {name}",
                data=functools.partial(as_bytes, rows, kind),
                file_name=f"{key}.{kind}",
                mime=mime,
                key=f"{key} {kind}",
                on_click="ignore",
                type="tertiary",
            )
