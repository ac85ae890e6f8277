"""Demo data, made by code."""
