"""Slots that are due start their executions: in tables, or in the memory of a process."""
