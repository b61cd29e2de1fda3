"""What may run now: limits, rates and pauses."""
