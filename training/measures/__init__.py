"""Numbers from score tables: metrics, intervals, comparisons."""
