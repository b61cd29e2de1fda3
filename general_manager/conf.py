"""The settings: every key, its default in each mode, and the validation of its value.

The only module that reads Django's settings. Nothing is read at import time; cached values are
dropped when a setting changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, Final, Literal, NamedTuple

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from general_manager.parsing import (
    WrongValue,
    backend,
    base_url,
    count,
    days_or_none,
    duration,
    flag,
    mode,
    modules_or_none,
    nearest,
    nearest_without_prefix,
    path_or_none,
    secret_names,
)

CONTAINER: Final = "GENERAL_MANAGER"


class Problem(NamedTuple):
    """One mistake in the settings: the check's id, the message, the remedy."""

    id: str
    message: str
    hint: str

    @property
    def is_error(self) -> bool:
        return self.id.startswith("E")


def _key(name: str, parse: Callable[[Any], Any], default: Any, *, production: Any = None) -> Any:
    """A settings key: its *name*, its validator and converter, its *default* in each mode."""
    by_mode = {"local": default, "production": default if production is None else production}
    return field(metadata={"key": name, "parse": parse, "defaults": by_mode})


class _SameAs(str):
    """A default that is the value of another key."""

    __slots__ = ()


_BACKENDS = "general_manager.workflow.backends"
_REGISTRIES = "general_manager.workflow.event_registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSettings:
    """The validated settings: a field for each key, durations as `timedelta`."""

    mode: Literal["local", "production"] = _key("WORKFLOW_MODE", mode, "local")
    engine: Any = _key(
        "WORKFLOW_ENGINE",
        backend,
        f"{_BACKENDS}.local.LocalWorkflowEngine",
        production=f"{_BACKENDS}.celery.CeleryWorkflowEngine",
    )
    event_registry: Any = _key(
        "WORKFLOW_EVENT_REGISTRY",
        backend,
        f"{_REGISTRIES}.InMemoryEventRegistry",
        production=f"{_REGISTRIES}.DatabaseEventRegistry",
    )
    signal_bridge: bool = _key("WORKFLOW_SIGNAL_BRIDGE", flag, False)
    run_async: bool = _key("WORKFLOW_ASYNC", flag, False, production=True)
    outbox_batch_size: int = _key("WORKFLOW_OUTBOX_BATCH_SIZE", count(1), 100)
    outbox_process_chunk_size: int = _key("WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE", count(1), 50)
    transport: Any = _key(
        "WORKFLOW_TRANSPORT", backend, "general_manager.workflow.transport.broker.CeleryTransport"
    )
    celery_app: str | None = _key("WORKFLOW_CELERY_APP", path_or_none, None)
    beat_enabled: bool = _key(
        "WORKFLOW_BEAT_ENABLED", flag, False, production=_SameAs("WORKFLOW_ASYNC")
    )
    beat_outbox_interval: timedelta = _key(
        "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS", duration(unit="seconds", whole=True), 5
    )
    beat_max_jitter: timedelta = _key(
        "WORKFLOW_BEAT_MAX_JITTER_SECONDS", duration(unit="seconds", zero=True), 2
    )
    delivery_running_timeout: timedelta = _key(
        "WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS", duration(unit="seconds"), 300
    )
    max_retries: int = _key("WORKFLOW_MAX_RETRIES", count(1), 3)
    dead_letter_enabled: bool = _key("WORKFLOW_DEAD_LETTER_ENABLED", flag, True)
    outbox_claim_ttl: timedelta = _key(
        "WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS",
        duration(unit="seconds"),
        _SameAs("WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS"),
    )
    retry_backoff: timedelta = _key("WORKFLOW_RETRY_BACKOFF_SECONDS", duration(unit="seconds"), 5)
    max_crashes: int = _key("WORKFLOW_MAX_CRASHES", count(1), 3)
    execution_lease: timedelta = _key(
        "WORKFLOW_EXECUTION_LEASE_SECONDS", duration(unit="seconds"), 60
    )
    synchronous_commit: bool = _key("WORKFLOW_SYNCHRONOUS_COMMIT", flag, True)
    step_result_max_bytes: int = _key("WORKFLOW_STEP_RESULT_MAX_BYTES", count(1), 1_000_000)
    event_max_bytes: int = _key("WORKFLOW_EVENT_MAX_BYTES", count(1), 1_000_000)
    base_url: str = _key("WORKFLOW_BASE_URL", base_url, "")
    redact: frozenset[tuple[str, ...]] = _key(
        "WORKFLOW_REDACT",
        secret_names,
        (
            "password", "passwd", "pw", "secret", "token", "totp", "otp", "apikey",
            "authorization", "cookie", "api key", "ping key", "private key", "access key",
            "invitation code", "review code", "webhook url",
        ),
    )  # fmt: skip
    handler_modules: frozenset[str] | None = _key("WORKFLOW_HANDLER_MODULES", modules_or_none, None)
    retention: timedelta | None = _key("WORKFLOW_RETENTION_DAYS", days_or_none, None)


_PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
    one.metadata["key"]: one.metadata["parse"] for one in fields(WorkflowSettings)
}
_BACKEND_KEYS: Final = ("WORKFLOW_ENGINE", "WORKFLOW_EVENT_REGISTRY")
KEYS: Final = tuple(_PARSERS)
_is_configured = False


def is_configured() -> bool:
    """Whether Django is configured: events also work in a script without a project."""
    global _is_configured  # asking Django costs as much as the call around it, many times an event
    _is_configured = _is_configured or django_settings.configured
    return _is_configured


def root_urlconf() -> str:
    """The dotted path of the project's URLconf; empty if it has none."""
    found = getattr(django_settings, "ROOT_URLCONF", None)
    return found if isinstance(found, str) else ""


def require_time_zones(what: str) -> None:
    """Raise `ImproperlyConfigured` if USE_TZ is off: leases need aware times."""
    if not django_settings.USE_TZ:
        raise ImproperlyConfigured(
            f"{what} compares times with the database's clock, which differs from the project's "
            "if USE_TZ = False. Set USE_TZ = True."
        )


@cache
def get_workflow_settings() -> WorkflowSettings:
    """The current settings.

    Raises `ImproperlyConfigured` that names every wrong key. Nothing is guessed: a misspelt mode
    never becomes local mode.
    """
    return load_settings(django_settings)


def load_settings(source: object) -> WorkflowSettings:
    """Like `get_workflow_settings`, from any object that has settings as attributes."""
    if isinstance(source, Mapping):
        raise TypeError(
            "Settings are read from an object's attributes, not from a mapping: pass "
            "types.SimpleNamespace(GENERAL_MANAGER={...})"
        )
    values, problems = read_settings(source)
    errors = [problem for problem in problems if problem.is_error]
    if values is None or errors:
        raise ImproperlyConfigured(
            "\n".join(f"{problem.message} {problem.hint}" for problem in errors)
        )
    return values


def find_problems() -> list[Problem]:
    """All mistakes in the current settings, for `manage.py check`."""
    return read_settings(django_settings)[1]


def read_settings(source: object) -> tuple[WorkflowSettings | None, list[Problem]]:
    """Read *source*; the values are `None` if any of them is wrong."""
    container = getattr(source, CONTAINER, None)
    problems: list[Problem] = []
    if container is None:
        container = {}
    elif not isinstance(container, Mapping):
        problems.append(
            Problem(
                "E001",
                f"{CONTAINER} must be a mapping of settings, not {container!r}.",
                f'Write {CONTAINER} = {{"WORKFLOW_MODE": "local"}}.',
            )
        )
        container = {}
    given = {name: getattr(source, name) for name in KEYS if hasattr(source, name)}
    given.update((name, value) for name, value in container.items() if name in KEYS)
    parsed, wrong = _parse(given)
    problems += [*_unknown_keys(container), *wrong, *_near_misses(source)]
    if any(problem.is_error for problem in problems):
        return None, problems
    return _with_defaults(parsed), problems


def _parse(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    parsed: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        if value is None and name in _BACKEND_KEYS:
            continue  # None asks for the mode's default
        try:
            parsed[name] = _PARSERS[name](value)
        except WrongValue as wrong:
            hint = _HINTS.get(name, _HINT)
            if wrong.nearest is not None:
                hint = f"The nearest legal value is {wrong.nearest!r}. {hint}"
            problems.append(Problem("E003", f"{name} must be {wrong}, not {value!r}.", hint))
    return parsed, problems


_HINT: Final = "Correct the value, or remove the key to use the mode's default."
_HINTS: Final = {
    "WORKFLOW_MODE": "Without the key the mode is 'local'. A wrong value never becomes local mode.",
    "WORKFLOW_MAX_RETRIES": "It counts delivery passes: 1 means one attempt and no retry.",
    "WORKFLOW_RETENTION_DAYS": "Use None to keep finished rows indefinitely.",
}


def _with_defaults(parsed: Mapping[str, Any]) -> WorkflowSettings:
    mode = parsed.get("WORKFLOW_MODE", "local")
    values: dict[str, Any] = {}
    for one in fields(WorkflowSettings):
        name = one.metadata["key"]
        if name in parsed:
            values[one.name] = parsed[name]
            continue
        default = one.metadata["defaults"][mode]
        if isinstance(default, _SameAs):
            other = next(
                field for field in fields(WorkflowSettings) if field.metadata["key"] == default
            )
            values[one.name] = values[other.name]
        else:
            values[one.name] = one.metadata["parse"](default)
    return WorkflowSettings(**values)


def _unknown_keys(container: Mapping[Any, Any]) -> list[Problem]:
    problems = []
    for name in container:
        if name in _PARSERS:
            continue
        near = nearest(name, KEYS) or nearest_without_prefix(name, KEYS, "WORKFLOW_")
        hint = f"Did you mean {near}?" if near else f"The keys are {', '.join(KEYS)}."
        problems.append(Problem("E002", f"{CONTAINER} has no key {name!r}.", hint))
    return problems


def _near_misses(source: object) -> list[Problem]:
    """Top-level settings that look like misspelt ones of ours; they may be another app's."""
    problems = []
    for name in dir(source):
        if name in _PARSERS or name == CONTAINER or not name.isupper():
            continue
        if near := _near(name):
            problems.append(
                Problem("W001", f"The setting {name} is not read.", f"Did you mean {near}?")
            )
    return problems


@lru_cache(maxsize=1024)
def _near(name: str) -> str | None:
    """The one of our settings that *name* resembles; a project has hundreds that do not."""
    return next(iter(get_close_matches(name, (*KEYS, CONTAINER), n=1, cutoff=0.9)), None)


def is_ours(setting: str) -> bool:
    """Whether our settings depend on Django's *setting*."""
    return setting == CONTAINER or setting in _PARSERS


def _forget(*, setting: str, **_: object) -> None:
    if is_ours(setting):
        get_workflow_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="general_manager.conf")
