"""Networks and helpers that detectors share."""
