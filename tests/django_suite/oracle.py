"""Each save and each deletion beside what was reported: by the rows, not by our own means."""

import os
import threading
from collections import Counter
from functools import wraps
from typing import Any

from tests.django_suite.recording import note, unlogged

_here = threading.local()
_judged: Counter[str] = Counter()


class Act:
    """A save of one instance, or a deletion by one collector, and what was reported meanwhile."""

    def __init__(self, subject: Any) -> None:
        self.subject = subject
        self.reported: list[Any] = []


def install() -> None:
    from django.db.models import Model
    from django.db.models.deletion import Collector

    from general_manager.manager.signals import post_data_change

    base: Any = Model
    base.save_base = _judged_save(base.save_base)
    collector: Any = Collector
    collector.delete = _judged_deletion(collector.delete)
    post_data_change.connect(_hear, dispatch_uid="oracle")


def _hear(sender: Any, change: Any, **_: Any) -> None:
    acts = _acts()
    if acts:
        acts[-1].reported.append(change)
    else:
        note("oracle", what="reported outside of a save and a deletion", model=sender.__name__)


def _acts() -> list[Act]:
    if not hasattr(_here, "acts"):
        _here.acts = []
    found: list[Act] = _here.acts
    return found


def _count(what: str) -> None:
    _judged[what] += 1
    if sum(_judged.values()) % 50 == 0:
        note("judged", pid=os.getpid(), **_judged)


def _tracked(model: Any) -> list[Any]:
    """Tracked classes that *model*'s rows are rows of, parents first."""
    from general_manager.manager.trackers import trackers

    return [one for one in reversed(model.__mro__) if one in trackers]


def _row(model: Any, using: str, key: Any) -> dict[str, Any] | None:
    from django.db import transaction
    from django.db.models.query import QuerySet

    fields = model._meta.concrete_fields
    with unlogged(), transaction.atomic(using=using):
        rows: Any = QuerySet(model, using=using).order_by().filter(pk=key)
        found = list(rows.values_list(*(one.attname for one in fields)))
    return dict(zip((one.name for one in fields), found[0], strict=True)) if found else None


def _same(one: Any, other: Any) -> bool:
    try:
        if (one == other) is True:
            return True
    except Exception:
        return repr(one) == repr(other)
    if repr(one) == repr(other):
        return True  # a NaN, or a class that says all in its repr
    return type(one) is type(other) and getattr(one, "__dict__", 0) == getattr(other, "__dict__", 1)


def _judged_save(save_base: Any) -> Any:
    """Judges between the signals: receivers' own changes are saves of their own."""

    @wraps(save_base)
    def judged(self: Any, *arguments: Any, **options: Any) -> Any:
        from django.db import connections, router

        raw = options.get("raw", arguments[0] if arguments else False)
        model = self._meta.concrete_model
        using = options.get("using") or router.db_for_write(type(self), instance=self)
        if raw or not _tracked(model) or connections[using].needs_rollback:
            return save_base(self, *arguments, **options)
        table, act = self._save_table, Act(self)
        before: dict[Any, Any] = {}
        is_last = False

        def save_table(*parts: Any, **more: Any) -> Any:
            nonlocal is_last
            cls = more.get("cls") or parts[1]
            try:
                if not before:
                    for one in _tracked(model):
                        key = getattr(self, one._meta.pk.attname)
                        before[one] = None if key is None else _row(one, using, key)
            except Exception as error:
                before[model] = error
            _acts().append(act)
            try:
                done = table(*parts, **more)
            finally:
                _acts().remove(act)
            is_last = cls is model
            if is_last:
                _judge_save(act, before, using)
            return done

        vars(self)["_save_table"] = save_table
        try:
            return save_base(self, *arguments, **options)
        finally:
            vars(self).pop("_save_table", None)

    return judged


def _judge_save(act: Act, before: dict[Any, Any], using: str) -> None:
    self = act.subject
    for one in _tracked(self._meta.concrete_model):
        was = before.get(one)
        now: Any
        try:
            now = _row(one, using, getattr(self, one._meta.pk.attname))
        except Exception as error:
            now = error
        if isinstance(was, Exception) or isinstance(now, Exception) or now is None:
            note("skipped", model=one._meta.label, error=repr(was or now))
            continue
        reported = [change for change in act.reported if change.model is one]
        _judge_row(one, was, now, reported)


def _judge_row(
    model: Any, was: dict[str, Any] | None, now: dict[str, Any], reported: list[Any]
) -> None:
    fields = _reported(model)
    above = set().union(*map(_reported, _tracked(model)[:-1]))
    different = {name for name in fields if was is None or not _same(was[name], now[name])}
    wanted = "none"
    if was is None:
        wanted = "create"
    elif different - above:
        wanted = "update"
    _count(f"save: {wanted}")
    actions = [change.action for change in reported]
    about = {"model": model._meta.label}
    if actions != ([] if wanted == "none" else [wanted]):
        note("oracle", what=f"save: reported {actions}, wanted {wanted}", **about)
        return
    for change in reported:
        _judge_key(change, now, about)
        if set(change.changes) != different:
            others = sorted(set(change.changes) ^ different)
            note(
                "oracle", what="save: other fields than those that changed", fields=others, **about
            )
        for name, (old, new) in change.changes.items():
            if not _same(new, now[name]) or (was is not None and not _same(old, was[name])):
                values = repr((was and was[name], old, now[name], new))
                note(
                    "oracle",
                    what="save: other values than the row's",
                    field=name,
                    values=values[:500],
                    **about,
                )


def _reported(model: Any) -> set[str]:
    """All fields but keys and links, and but the password of a user."""
    keys = set()
    for one in (model, *model._meta.all_parents):
        keys |= {
            field.name for field in (*one._meta.pk_fields, *one._meta.parents.values()) if field
        }
    if any(one.__name__ == "AbstractBaseUser" for one in model.__mro__):
        keys.add("password")
    return {one.name for one in model._meta.concrete_fields} - keys


def _judge_key(change: Any, row: dict[str, Any], about: dict[str, str]) -> None:
    fields = change.model._meta.pk_fields
    wanted = {one.attname: row[one.name] for one in fields}
    given = dict(change.identification)
    if set(given) != set(wanted) or any(not _same(given[name], wanted[name]) for name in wanted):
        note("oracle", what="another identity than the row's", given=given, row=wanted, **about)


def _judged_deletion(delete: Any) -> Any:
    @wraps(delete)
    def judged(self: Any) -> Any:
        going = []
        for model, instances in self.data.items():
            concrete = model._meta.concrete_model
            if concrete not in _tracked(concrete):
                continue
            for one in instances:
                try:
                    row = None if one.pk is None else _row(concrete, self.using, one.pk)
                except Exception as error:
                    note("skipped", model=concrete._meta.label, error=repr(error))
                else:
                    going.append((concrete, one.pk, row))
        for rows in self.fast_deletes:
            if rows.model._meta.concrete_model in _tracked(rows.model._meta.concrete_model):
                note("oracle", what="deleted without signals", model=rows.model._meta.label)
        act = Act(self)
        _acts().append(act)
        try:
            done = delete(self)
        finally:
            _acts().remove(act)
        for concrete, key, row in going:
            _judge_deletion(act, concrete, key, row)
        return done

    return judged


def _judge_deletion(act: Act, model: Any, key: Any, row: Any) -> None:
    names = [one.name for one in model._meta.pk_fields]
    wanted = (
        tuple(row[name] for name in names) if row else key if isinstance(key, tuple) else (key,)
    )
    reported = [
        change
        for change in act.reported
        if change.model is model
        and change.action == "delete"
        and _same(tuple(change.identification.values()), wanted)
    ]
    _count("delete" if row else "delete: gone")
    about = {"model": model._meta.label}
    if len(reported) != (row is not None):
        note(
            "oracle",
            what=f"deletion: reported {len(reported)} times",
            there=row is not None,
            **about,
        )
    for change in reported if row is not None else ():
        for name, (old, _) in change.changes.items():
            if not _same(old, row[name]):
                note(
                    "oracle",
                    what="deletion: another value than the row's",
                    field=name,
                    values=repr((row[name], old))[:500],
                    **about,
                )
