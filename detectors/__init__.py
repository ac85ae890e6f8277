"""Detectors, one file each, and their registry."""

from resproto_fd.detectors.registry import create_detector, register

__all__ = ["create_detector", "register"]
