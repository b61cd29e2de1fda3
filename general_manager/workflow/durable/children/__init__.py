"""Children: executions that a handler starts and waits for."""
