"""An app with a schedule of every other second."""
