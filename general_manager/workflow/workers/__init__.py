"""Periodic work of workers, Beat and long-lived processes."""
