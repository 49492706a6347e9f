"""What a search decides: fusing rankings, explaining them, filling a token budget. Pure: no waiting, no storage."""
