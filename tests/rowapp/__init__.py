"""Models of every kind, each twice: saved plainly, and tracked."""
