"""The verbs new and check."""

from typing import Any


def add(verbs: Any) -> None:
    """Declare them."""
    del verbs
