"""An app of workflows that depend on one another: families, waits for events, lines, limits."""
