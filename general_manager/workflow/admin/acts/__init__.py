"""The acts of operators in the admin, and their confirmation."""
