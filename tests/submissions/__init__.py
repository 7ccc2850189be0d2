"""Submissions as people send them: good ones, and a hundred that are broken or mean harm."""
