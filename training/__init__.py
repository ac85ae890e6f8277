"""The commands, and what they report: protocols, score tables, metrics, results, leaderboard."""
