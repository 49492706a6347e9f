"""The plain-Python model of the contracts: a backend for tests, and the oracle of the property tests."""
