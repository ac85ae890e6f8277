"""What docs/generate.py adds to the documentation: pages made from the code and its YAML files."""
