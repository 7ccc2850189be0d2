"""How the paths of records below the results read."""

from typing import Final

FOLDER: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
STEM: Final = "[0-9]{8}T[0-9]{12}Z-[0-9a-f]{12}"
OF_RUN: Final = rf"measured/{FOLDER}/{FOLDER}/{STEM}\.json"
OF_EVALUATION: Final = rf"evaluations/{STEM}\.json"
