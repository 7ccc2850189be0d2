"""One family of metrics per file; each returns Measurements, or nothing where it does not apply."""
