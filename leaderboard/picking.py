"""Which arms of a board a reader looks at: a choice that stands in the address."""

from typing import Final

import pandas as pd
import streamlit as st

from leaderboard.bound import keep_offered

MOST_ARMS: Final = 8
FIRST_ARMS: Final = 4
KEY: Final = "arm"


def pick(arms: pd.DataFrame) -> list[str]:
    """The arms in the address; where none of them is here, some with tokens beside none, of the commonest backbone.

    `arms` are those of `compare_queries.arms`.
    """
    of_first = arms[arms["backbone"] == arms["backbone"].mode().iloc[0]]
    order = pd.DataFrame(
        {
            "arm": of_first["arm"],
            "is_treated": of_first["registers"] != "none",
            "has_no_tokens": of_first["count"].isna(),
            "rare": -of_first["measured"],
        }
    ).sort_values(["is_treated", "has_no_tokens", "rare", "arm"])
    offered = list(arms["arm"])
    keep_offered(KEY, offered, list(order["arm"][:FIRST_ARMS]))
    return st.multiselect(
        "Arms",
        offered,
        key=KEY,
        bind="query-params",
        max_selections=MOST_ARMS,
        help="A backbone with a register configuration, over all its seeds. The address keeps what is picked.",
    )
