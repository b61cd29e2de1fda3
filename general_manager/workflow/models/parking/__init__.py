"""What pauses park, besides executions."""
