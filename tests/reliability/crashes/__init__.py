"""An app whose database crashes under it."""
