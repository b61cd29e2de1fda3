"""The engines: one that needs nothing, one for real load."""
