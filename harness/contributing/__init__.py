"""The way in: a new backbone, a result, and the checks that both pass."""
