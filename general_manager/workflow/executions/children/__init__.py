"""Children of stored executions: started by runs, looked at when they end, stopped with parents."""
