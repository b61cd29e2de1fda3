#!/usr/bin/env python
"""Django's command line, for this project."""

import os
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "company.settings")
    # For the demo: settings are read before its options.
    if {"--production", "--servers"} & set(sys.argv):
        os.environ["EXAMPLE_MODE"] = "production"
    elif "--in-process" in sys.argv:
        os.environ["EXAMPLE_MODE"] = "in-process"
    if "--servers" in sys.argv:
        folder = f"company_{uuid4().hex[:12]}"  # short: the path of a socket is limited
        os.environ["EXAMPLE_SERVERS"] = str(Path(tempfile.gettempdir()) / folder)
    execute_from_command_line(sys.argv)
