"""Secrets: sealing them, keeping them, and recognising our own."""
