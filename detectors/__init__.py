"""Detectors, one file each, and their registry."""

from .registry import create_detector, register

__all__ = ["create_detector", "register"]
