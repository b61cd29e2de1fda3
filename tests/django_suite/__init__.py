"""Django's own test suite with every model tracked, and an oracle; see docs/managers.md."""
