"""What is done to a frame between the store and the detector."""
