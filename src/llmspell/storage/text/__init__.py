"""Texts to terms, and the weight of terms: pure functions, the same at write and at search, on every backend."""
