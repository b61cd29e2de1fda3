"""An app that is set up before general_manager."""
