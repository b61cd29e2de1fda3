"""Each key: its defaults, what it takes, and what is said of a wrong value."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from general_manager.conf import KEYS, get_workflow_settings, load_settings, read_settings


def load(**container):
    return load_settings(SimpleNamespace(GENERAL_MANAGER=container))


def test_nothing_configured_is_local_mode():
    settings = load_settings(SimpleNamespace())
    assert settings.mode == "local"
    assert settings.engine.endswith("LocalWorkflowEngine")
    assert settings.event_registry.endswith("InMemoryEventRegistry")
    assert not settings.signal_bridge
    assert not settings.run_async
    assert not settings.beat_enabled
    assert settings.max_retries == 3
    assert settings.retention is None


def test_production_mode_is_a_set_of_defaults():
    settings = load(WORKFLOW_MODE="production")
    assert settings.engine.endswith("CeleryWorkflowEngine")
    assert settings.event_registry.endswith("DatabaseEventRegistry")
    assert settings.run_async
    assert settings.beat_enabled
    assert not settings.signal_bridge
    assert load(WORKFLOW_MODE="production", WORKFLOW_ASYNC=False).run_async is False


def test_durations_are_timedeltas():
    settings = load(
        WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS=7,
        WORKFLOW_BEAT_MAX_JITTER_SECONDS=0,
        WORKFLOW_EXECUTION_LEASE_SECONDS=1.5,
        WORKFLOW_RETENTION_DAYS=30,
    )
    assert settings.beat_outbox_interval == timedelta(seconds=7)
    assert settings.beat_max_jitter == timedelta(0)
    assert settings.execution_lease == timedelta(seconds=1.5)
    assert settings.retention == timedelta(days=30)


def test_a_claim_lasts_as_long_as_a_running_delivery_unless_set():
    running = {"WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS": 60}
    assert load(**running).outbox_claim_ttl == timedelta(seconds=60)
    told = load(**running, WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS=20)
    assert told.outbox_claim_ttl == timedelta(seconds=20)


def test_a_key_inside_the_mapping_wins_over_a_top_level_setting():
    source = SimpleNamespace(
        WORKFLOW_MAX_RETRIES=8,
        WORKFLOW_MAX_CRASHES=9,
        GENERAL_MANAGER={"WORKFLOW_MAX_RETRIES": 5},
    )
    settings = load_settings(source)
    assert (settings.max_retries, settings.max_crashes) == (5, 9)


def test_none_asks_for_the_modes_own_engine_and_registry():
    settings = load(WORKFLOW_ENGINE=None, WORKFLOW_EVENT_REGISTRY=None)
    assert settings.engine.endswith("LocalWorkflowEngine")
    assert settings.event_registry.endswith("InMemoryEventRegistry")


WRONG: dict[str, list[object]] = {
    "WORKFLOW_MODE": ["prodcution", None, 1, ["local"]],
    "WORKFLOW_ENGINE": [
        3,
        True,
        "",
        [],
        {"clas": "x"},
        {"class": ""},
        {"class": "x", "options": [1]},
        {"class": "x", "options": {1: 2}},
    ],
    "WORKFLOW_EVENT_REGISTRY": [3.5, b"x", {"options": {}}],
    "WORKFLOW_SIGNAL_BRIDGE": ["False", 1, None],
    "WORKFLOW_ASYNC": ["yes", 0],
    "WORKFLOW_OUTBOX_BATCH_SIZE": [0, -1, True, "100", 2.5],
    "WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE": [0, None],
    "WORKFLOW_BEAT_ENABLED": ["on"],
    "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS": [0, 2.5, "5", timedelta(seconds=5)],
    "WORKFLOW_BEAT_MAX_JITTER_SECONDS": [-1, True, float("nan"), None],
    "WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS": [0, float("inf"), 1e30],
    "WORKFLOW_MAX_RETRIES": [0, -1, 2.0],
    "WORKFLOW_DEAD_LETTER_ENABLED": [1],
    "WORKFLOW_SYNCHRONOUS_COMMIT": ["off", 0],
    "WORKFLOW_OUTBOX_CLAIM_TTL_SECONDS": [0, None],
    "WORKFLOW_RETRY_BACKOFF_SECONDS": [0, "5"],
    "WORKFLOW_MAX_CRASHES": [0],
    "WORKFLOW_EXECUTION_LEASE_SECONDS": [0],
    "WORKFLOW_STEP_RESULT_MAX_BYTES": [0, "1"],
    "WORKFLOW_EVENT_MAX_BYTES": [0, "1"],
    "WORKFLOW_BASE_URL": ["example.com", None],
    "WORKFLOW_TRANSPORT": [3.5, b"x", {"options": {}}],
    "WORKFLOW_CELERY_APP": ["app", "project:app", "", 3],
    "WORKFLOW_REDACT": ["password", [1], [""]],
    "WORKFLOW_HANDLER_MODULES": ["shop", [1], ["shop/flows"], [""], ["shop."]],
    "WORKFLOW_RETENTION_DAYS": [0, -3, "30"],
}


def test_every_key_is_tried_with_wrong_values():
    assert set(WRONG) == set(KEYS)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(ImproperlyConfigured, match=f"{key} must be "):
        load(**{key: value})


def test_a_misspelt_mode_never_becomes_local_mode():
    with pytest.raises(ImproperlyConfigured, match="did you mean 'production'"):
        load(WORKFLOW_MODE="prodcution")


def test_an_unknown_key_is_an_error_that_suggests_the_nearest():
    with pytest.raises(ImproperlyConfigured, match="Did you mean WORKFLOW_MODE"):
        load(WORKFLOW_MOED="local")
    with pytest.raises(ImproperlyConfigured, match="Did you mean WORKFLOW_ASYNC"):
        load(async_=True)
    with pytest.raises(ImproperlyConfigured, match="no key 7"):
        load_settings(SimpleNamespace(GENERAL_MANAGER={7: 7}))


def test_all_wrong_keys_are_reported_at_once():
    with pytest.raises(ImproperlyConfigured) as caught:
        load(WORKFLOW_MODE="x", WORKFLOW_MAX_RETRIES=0, WORKFLOW_ASYNC="y", NONSENSE=1)
    for name in ("WORKFLOW_MODE", "WORKFLOW_MAX_RETRIES", "WORKFLOW_ASYNC", "NONSENSE"):
        assert name in str(caught.value)


def test_the_mapping_must_be_a_mapping():
    with pytest.raises(ImproperlyConfigured, match="GENERAL_MANAGER must be a mapping"):
        load_settings(SimpleNamespace(GENERAL_MANAGER=["WORKFLOW_MODE"]))


def test_a_top_level_near_miss_is_a_warning():
    values, problems = read_settings(SimpleNamespace(WORKFLOW_MODES="production"))
    assert values is not None
    assert [(one.id, one.hint) for one in problems] == [("W001", "Did you mean WORKFLOW_MODE?")]
    _, problems = read_settings(SimpleNamespace(GENERAL_MANGER={}))
    assert [one.hint for one in problems] == ["Did you mean GENERAL_MANAGER?"]


def test_settings_are_read_again_when_they_change():
    assert get_workflow_settings() is get_workflow_settings()
    before = get_workflow_settings().max_retries
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MAX_RETRIES": before + 4}):
        assert get_workflow_settings().max_retries == before + 4
    assert get_workflow_settings().max_retries == before
    with override_settings(WORKFLOW_MAX_RETRIES=before + 5):
        assert get_workflow_settings().max_retries == before + 5


def test_a_mapping_is_not_taken_for_settings_that_say_nothing():
    with pytest.raises(TypeError, match="SimpleNamespace"):
        load_settings({"GENERAL_MANAGER": {"WORKFLOW_MODE": "production"}})


def test_a_key_like_no_other_gets_no_suggestion():
    _, problems = read_settings(SimpleNamespace(GENERAL_MANAGER={"FOO": 1}))
    assert problems[0].hint.startswith("The keys are WORKFLOW_MODE,")


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("WORKFLOW_MAX_RETRIES", 0, "1"),
        ("WORKFLOW_MAX_RETRIES", -3, "1"),
        ("WORKFLOW_MAX_RETRIES", "5", "5"),
        ("WORKFLOW_MAX_RETRIES", "0", "1"),
        ("WORKFLOW_MAX_RETRIES", 2.0, "2"),
        ("WORKFLOW_MAX_RETRIES", 1e400, None),
        ("WORKFLOW_MAX_RETRIES", None, None),
        ("WORKFLOW_MAX_RETRIES", "many", None),
        ("WORKFLOW_OUTBOX_BATCH_SIZE", 0, "1"),
        ("WORKFLOW_OUTBOX_PROCESS_CHUNK_SIZE", "0", "1"),
        ("WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS", 0, "1"),
        ("WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS", 0.5, "1"),
        ("WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS", "10", "10"),
        ("WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS", 7.4, "7"),
        ("WORKFLOW_BEAT_MAX_JITTER_SECONDS", -1, "0"),
        ("WORKFLOW_BEAT_MAX_JITTER_SECONDS", "1.5", "1.5"),
        ("WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS", 0, "1"),
        ("WORKFLOW_ASYNC", "true", "True"),
        ("WORKFLOW_ASYNC", "1", "True"),
        ("WORKFLOW_ASYNC", 0, "False"),
        ("WORKFLOW_ASYNC", "No", "False"),
        ("WORKFLOW_ASYNC", "perhaps", None),
        ("WORKFLOW_RETENTION_DAYS", "30", "30"),
        ("WORKFLOW_RETENTION_DAYS", 0, None),
        ("WORKFLOW_RETENTION_DAYS", -1, None),
    ],
)
def test_the_error_names_the_nearest_legal_value(key, value, nearest):
    source = SimpleNamespace(GENERAL_MANAGER={key: value})
    [problem] = read_settings(source)[1]
    assert problem.id == "E003"
    if nearest is None:
        assert "nearest" not in problem.hint
    else:
        assert f"The nearest legal value is {nearest}. " in problem.hint
        with pytest.raises(ImproperlyConfigured, match=f"The nearest legal value is {nearest}"):
            load(**{key: value})
        assert load(**{key: eval(nearest)})
