"""The commands that read what runs have left, and those that list, make and take over."""
