"""The leaderboard: reads the database that the harness builds, and never imports torch."""
