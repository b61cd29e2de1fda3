"""What code left behind, in a form that two runs can be compared by."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.apps import apps
from django.core import mail
from django.core.mail import EmailMessage
from django.db import DEFAULT_DB_ALIAS, models, router

from general_manager.workflow.encoding import encode
from general_manager.workflow.exceptions import EncodingError

OURS: Final = "general_manager"
Row = tuple[str, ...]
Table = tuple[type[models.Model], tuple[Any, ...], list[Row]]
"""A model, its columns, and its rows, each a text for every column."""

MAIL_FIELDS: Final = (
    "subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "attachments", "alternatives",
)  # fmt: skip


def database_effects() -> dict[str, list[Row]]:
    """Every row of every model on the default database, by the model's label; ours left out."""
    return {model._meta.label: rows for model, _, rows in read_tables()}


def sent_mails() -> list[EmailMessage]:
    """The mails that this test has sent, for ``assert_crash_safe(effects=sent_mails)``."""
    return list(getattr(mail, "outbox", ()))


def read_tables() -> list[Table]:
    """The tables that have rows; automatic ones of many-to-many fields too."""
    found = []
    for model in apps.get_models(include_auto_created=True):
        if model._meta.app_label == OURS or not model._meta.managed or model._meta.proxy:
            continue
        if not router.allow_migrate_model(DEFAULT_DB_ALIAS, model):
            continue
        columns = tuple(model._meta.local_concrete_fields)
        rows: models.QuerySet[Any] = models.QuerySet(model, using=DEFAULT_DB_ALIAS).order_by()
        values = rows.values_list(*[column.attname for column in columns])
        texts = [tuple(map(text_of, row)) for row in values.iterator()]
        if texts:
            found.append((model, columns, texts))
    return found


def text_of(value: Any) -> str:
    """As a workflow's output would show it."""
    try:
        return str(encode(value, root="value"))
    except EncodingError:
        return repr(value)


def counted(effects: Any) -> Counter[str]:
    """What a project's own *effects* returned, as a multiset of texts.

    A list, tuple or set is taken by its items, a mapping by its keys' items, and a whole number as
    so many times the same.
    """
    if isinstance(effects, Mapping):
        found: Counter[str] = Counter()
        for key, value in effects.items():
            for text, count in counted(value).items():
                found[f"{key}: {text}"] += count
        return found
    if isinstance(effects, int) and not isinstance(effects, bool):
        return Counter({"1 more": effects})
    if isinstance(effects, Iterable) and not isinstance(effects, str | bytes):
        return Counter(_described(one) for one in effects)
    return Counter([_described(effects)])


def _described(one: Any) -> str:
    if isinstance(one, EmailMessage):
        given = ((name, getattr(one, name, None)) for name in MAIL_FIELDS)
        return f"mail { ({name: value for name, value in given if value})!r}"
    if getattr(type(one), "__repr__", None) is object.__repr__:  # an address says nothing
        return f"{type(one).__name__} {vars(one)!r}"
    return repr(one)
