"""What a run came to, written by itself or together with its batch."""
