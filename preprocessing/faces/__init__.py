"""From videos and pictures to aligned face crops."""
