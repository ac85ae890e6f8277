"""Runs as packages: a folder that holds all that scoring pictures needs, and says what the model is for."""

from resproto_fd.training.packages.reading import Package, load

__all__ = ["Package", "load"]
