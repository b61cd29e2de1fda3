"""The rows and effects that code left behind, in a form that can be compared."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.apps import apps
from django.core import mail
from django.core.mail import EmailMessage
from django.db import DEFAULT_DB_ALIAS, models, router

from general_manager.names import APP_LABEL
from general_manager.workflow.core.encoding import encode
from general_manager.workflow.exceptions import EncodingError

Row = tuple[str, ...]
Table = tuple[type[models.Model], tuple[Any, ...], list[Row]]
"""A model, its columns, and its rows as texts by column."""

MAIL_FIELDS: Final = (
    "subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "attachments", "alternatives",
)  # fmt: skip


_STAMP: Final = re.compile(r"(:|%3A)[0-9A-Za-z]{6}\1[\w-]{43}(?![\w-])")
"""What `django.core.signing` puts behind a value: the second of signing, and the signature."""


def sent_mails() -> list[EmailMessage]:
    """The mails sent in this test, for ``assert_crash_safe(effects=sent_mails)``."""
    return list(getattr(mail, "outbox", ()))


def read_tables() -> list[Table]:
    """Models with tables, including automatic ones of many-to-many fields."""
    found = []
    for model in apps.get_models(include_auto_created=True):
        if model._meta.app_label == APP_LABEL or not model._meta.managed or model._meta.proxy:
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
    """*value* as a workflow's output would encode it, without the stamps of signed links."""
    try:
        return unstamped(str(encode(value, root="value")))
    except EncodingError:
        return repr(value)


def unstamped(text: str) -> str:
    """*text* without the times at which links in it were signed: no two runs share them."""
    return _STAMP.sub("", text)


def counted(effects: Any) -> Counter[str]:
    """The return value of a project's own *effects* as a multiset of texts.

    A list, tuple or set counts by its items, a mapping by the items of its keys, and a whole number
    as so many equal items.
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
        return Counter(unstamped(_described(one)) for one in effects)
    return Counter([unstamped(_described(effects))])


def _described(one: Any) -> str:
    if isinstance(one, EmailMessage):
        given = ((name, getattr(one, name, None)) for name in MAIL_FIELDS)
        return f"mail { ({name: value for name, value in given if value})!r}"
    if getattr(type(one), "__repr__", None) is object.__repr__:  # an address is meaningless
        return f"{type(one).__name__} {vars(one)!r}"
    return repr(one)
