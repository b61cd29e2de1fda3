"""Build one shared, validated instance from a setting."""

from collections.abc import Callable, Iterable, Mapping
from threading import RLock
from typing import Any, Generic, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from general_manager.conf import WorkflowSettings, get_workflow_settings, is_ours, load_settings

T = TypeVar("T")


class BackendSlot(Generic[T]):
    """Holds the instance that a setting describes, and builds it on first use.

    Under `override_settings` a changed setting gives a new instance; afterwards the slot returns
    to the previous one. *methods* are the methods that an instance must have. *succeed* gets a new
    instance and its predecessor, to hand over state; *first* gets an instance without one.
    """

    def __init__(
        self,
        setting: str,
        read: Callable[[WorkflowSettings], object],
        *,
        methods: Iterable[str],
        succeed: Callable[[T, T], None] | None = None,
        first: Callable[[T], None] | None = None,
    ) -> None:
        self._setting = setting
        self._read = read
        self._methods = tuple(methods)
        self._succeed = succeed
        self._first = first
        self._lock = RLock()
        self._configured: T | None = None
        self._current: tuple[object, T] | None = None
        self._before: list[tuple[object, T] | None] = []
        self._seen: WorkflowSettings | None = None
        setting_changed.connect(self._keep, weak=False)

    def get(self) -> T:
        """The current instance.

        Raises `ImproperlyConfigured` that names the setting if it cannot be built.
        """
        if self._configured is not None:
            return self._configured
        settings = get_workflow_settings()
        current = self._current
        if current is not None and self._seen is settings:
            return current[1]
        with self._lock:
            return self._follow(settings)

    def configure(self, instance: T | None) -> None:
        """Use *instance*, whatever the setting says; `None` goes back to the setting.

        Raises `TypeError` if *instance* lacks a required method.
        """
        if instance is not None:
            missing = self._missing(instance)
            if missing:
                raise TypeError(f"{instance!r} lacks {missing}, which {self._setting} requires")
        with self._lock:
            self._configured = instance

    def configure_from(self, source: object) -> T:
        """Build and use the instance that the settings-like object *source* describes.

        *source* has settings as attributes, like `django.conf.settings`. Raises
        `ImproperlyConfigured` and changes nothing if a setting is wrong.
        """
        instance = self._build(self._read(load_settings(source)))
        self.configure(instance)
        return instance

    def _follow(self, settings: WorkflowSettings) -> T:
        spec = self._read(settings)
        known = self._current
        if known is not None and known[0] == spec:
            self._seen = settings
            return known[1]
        instance = self._build(spec)
        if known is None and self._first is not None:
            self._first(instance)
        if known is not None and self._succeed is not None:
            self._succeed(instance, known[1])
        self._current, self._seen = (spec, instance), settings
        return instance

    def _keep(self, *, setting: str, enter: bool, **_: object) -> None:
        """An override begins or ends: save the current instance, or restore it."""
        if not is_ours(setting):
            return
        with self._lock:
            if enter:
                self._before.append(self._current)
            elif self._before:
                self._current = self._before.pop()
            self._seen = None

    def _build(self, spec: object) -> T:
        options: Mapping[str, Any] = {}
        found = spec
        if isinstance(found, Mapping):
            found, options = found["class"], found.get("options") or {}
        if isinstance(found, str):
            found = self._import(found)
        instance = found
        if isinstance(found, type) or (callable(found) and self._missing(found)):
            instance = self._call(found, options)
        elif options:
            raise ImproperlyConfigured(
                f"{self._setting} has options, but {found!r} is an instance and takes none."
            )
        missing = self._missing(instance)
        if missing:
            raise ImproperlyConfigured(
                f"{self._setting} gives {instance!r}, which lacks {missing}."
            )
        return cast(T, instance)

    def _import(self, path: str) -> object:
        try:
            return import_string(path)
        except Exception as error:
            raise ImproperlyConfigured(
                f"{self._setting} names {path!r}, which cannot be imported: {error}"
            ) from error

    def _call(self, factory: Callable[..., object], options: Mapping[str, Any]) -> object:
        try:
            return factory(**options)
        except Exception as error:
            name = getattr(factory, "__qualname__", repr(factory))
            raise ImproperlyConfigured(
                f"{self._setting} could not build {name} with options {dict(options)!r}: {error}"
            ) from error

    def _missing(self, instance: object) -> str:
        missing = [
            f"{name}()" for name in self._methods if not callable(getattr(instance, name, None))
        ]
        return ", ".join(missing)
