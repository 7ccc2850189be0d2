"""The verbs of the way in: new, check, submit, withdraw, validate."""

from typing import Any

from harness.contributing import backbone_cli, submission_cli, validation_cli


def add(verbs: Any) -> None:
    """Declare the verbs."""
    backbone_cli.add(verbs)
    submission_cli.add(verbs)
    validation_cli.add(verbs)
