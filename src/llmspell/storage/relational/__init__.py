"""What both databases share, written once: the storages, the query catalogue, the migration planner, the filter compiler."""
