"""Operating a store: what an administrator or a developer runs beside the library."""
