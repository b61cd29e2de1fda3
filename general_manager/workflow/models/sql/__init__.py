"""Statements that the ORM cannot express or is slow to compile."""
