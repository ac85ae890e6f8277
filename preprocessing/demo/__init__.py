"""The demo data, made by code."""
