#!/usr/bin/env python
"""Django's command line, for this project."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "company.settings")
    if "--production" in sys.argv:  # the demo's; settings are read before its options are
        os.environ["EXAMPLE_MODE"] = "production"
    execute_from_command_line(sys.argv)
