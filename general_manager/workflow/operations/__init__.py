"""Read-only views for operators: health, overview, timelines, traces, metrics."""
