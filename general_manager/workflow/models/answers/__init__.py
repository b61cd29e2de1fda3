"""The tables of waits that events answer, and the search for the event that answers one."""
