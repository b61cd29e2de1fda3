"""Waits that events answer, and waits for the first of several sources."""
