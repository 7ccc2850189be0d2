"""The arithmetic of metrics, a family to a file; harness.scoring and harness.perform make Measurements of it."""
