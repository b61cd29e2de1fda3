"""What is wrong with lanes, queues and schedules, for health."""
