"""Django's own test suite with every model tracked, and an oracle beside it; see docs/managers.md."""
