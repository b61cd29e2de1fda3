"""The package in which Django finds our commands."""
