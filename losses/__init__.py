"""Losses: the formulas that detectors train on."""
