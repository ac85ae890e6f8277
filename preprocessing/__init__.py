"""From videos to faces to manifests to the frame store; owns the store's format, both ends."""
