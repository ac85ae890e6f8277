"""Configuration: the YAML files of detectors, datasets and protocols, their schema and their reader."""
