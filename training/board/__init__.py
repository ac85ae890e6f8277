"""The leaderboard: its table, its files and its pages."""
