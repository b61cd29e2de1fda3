"""What a run does at calls that wait for others."""
