"""The embedded backend: one file, one writer with group commit, a few readers."""
