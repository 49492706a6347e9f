"""For those who write a backend, or test against one: the public conformance suite, and its pytest plugin."""
