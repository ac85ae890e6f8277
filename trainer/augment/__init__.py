"""Changes of a frame between the store and the detector."""
