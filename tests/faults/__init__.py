"""The fault campaign: what may befall runs, and what it must not do to their results."""
