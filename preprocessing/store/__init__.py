"""Where frames are kept: the format of the store, both ends."""
