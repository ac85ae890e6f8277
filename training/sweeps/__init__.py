"""Sweeps: the runs of a table, planned, shared out over cards and machines, and taken up again from their files."""
