"""Children of executions: their slots, and the transactions that start, release and settle them."""
