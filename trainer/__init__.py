"""The library that fits a detector: data loading, the loop, checkpoints, scoring."""
