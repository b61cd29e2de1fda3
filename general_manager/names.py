"""The app's label, as migrations, permissions, check ids and style sheets spell it."""

from typing import Final

APP_LABEL: Final = "general_manager"
