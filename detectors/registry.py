"""Names of detectors: classes registered by name, presets in `configs/detectors/*.yaml`."""
