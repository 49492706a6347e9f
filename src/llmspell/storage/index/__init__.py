"""Nearest-neighbour search in process: exact today, behind one planner. A cache, never the truth."""
