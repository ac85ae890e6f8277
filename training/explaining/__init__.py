"""Why a detector gives a score: maps of what it looked at, and the prototypes that a face is like."""
