"""People and projects that look like a company's."""

from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model

from projects.models import Project

PEOPLE = [("ada", "Ada", "Lovelace"), ("grace", "Grace", "Hopper"), ("alan", "Alan", "Turing")]
PROJECTS = [
    ("Apollo", "ada", 12000),
    ("Baltic harbour crane", "grace", 84500),
    ("Canteen menu", "alan", 900),
    ("Data centre move", "grace", 150000),
    ("Employee handbook", "ada", 2500),
    ("Facade repair", "alan", 31200),
]


def create_sample_data() -> dict[str, Any]:
    """Create people, projects and the account ``admin`` / ``admin``. Returns people by name."""
    users = get_user_model()._default_manager
    users.create_superuser("admin", "admin@example.test", "admin")
    people = {
        username: users.create_user(
            username, f"{username}@example.test", first_name=first, last_name=last
        )
        for username, first, last in PEOPLE
    }
    for name, owner, budget in PROJECTS:
        Project.create(name=name, owner=people[owner], budget=Decimal(budget))
    return people
