"""The storage layer: one written contract per concern, kept by three backends."""
