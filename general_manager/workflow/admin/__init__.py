"""The operator's pages: one module a page, over stock Django admin."""
