"""Stored executions: claim, run, record and repair them."""
