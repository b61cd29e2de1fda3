"""How the pages display rows, links and timelines."""
