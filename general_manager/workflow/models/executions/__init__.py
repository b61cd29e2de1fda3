"""The transitions of executions, by who makes them; `verbs` has the QuerySet."""
