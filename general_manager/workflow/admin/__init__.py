"""The operator's admin pages: one module per page, built on Django's stock admin."""
