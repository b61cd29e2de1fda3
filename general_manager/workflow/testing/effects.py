"""What code left in the database, in a form that two runs can be compared by."""

from collections import Counter
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, models, router

OURS = "general_manager"


def database_effects() -> dict[str, Counter[tuple[Any, ...]]]:
    """Every row of every model on the default database, but for what differs between two runs:
    generated keys and what points to them, and times set on saving. Ours are left out.
    """
    found = {}
    for model in apps.get_models():
        if model._meta.app_label == OURS or not model._meta.managed or model._meta.proxy:
            continue
        if not router.allow_migrate_model(DEFAULT_DB_ALIAS, model):
            continue
        names = [field.attname for field in model._meta.concrete_fields if _is_comparable(field)]
        rows = model._base_manager.using(DEFAULT_DB_ALIAS).values_list(*names or ["pk"])
        counted = Counter(tuple(map(str, row)) if names else () for row in rows)
        if counted:
            found[model._meta.label] = counted
    return found


def _is_comparable(field: Any) -> bool:
    is_generated = isinstance(field, models.AutoField) or field.is_relation
    return not (
        is_generated
        or getattr(field, "auto_now", False)
        or getattr(field, "auto_now_add", False)
        or (field.primary_key and isinstance(field, models.UUIDField))
    )
