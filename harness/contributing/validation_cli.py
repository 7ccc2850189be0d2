"""The verbs validate."""

from typing import Any


def add(verbs: Any) -> None:
    """Declare them."""
    del verbs
