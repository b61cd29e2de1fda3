"""Which values are redacted: by the words of their keys."""

import json

import pytest
from django.test import override_settings

from general_manager.parsing import words
from general_manager.workflow.core import redaction
from general_manager.workflow.core.redaction import (
    REDACTED,
    excerpt,
    is_secret,
    readable,
    redact,
    redact_named,
)

SECRETS = """
password Password PASSWORD passwd pw db_password userPassword password1 old-password passwords
secret client_secret clientSecret CLIENT-SECRET secrets webhook.secret
token access_token accessToken refresh-token X-CSRF-Token csrfToken tokens token_2
totp otp otp_code TOTPSecret
apikey api_key api-key apiKey APIKey X-Api-Key x_api_key_2 api.key apiKeys API_KEYS
authorization Authorization proxy-authorization cookie Set-Cookie cookies
ping_key pingKey private_key ssh-private-key privatekey access_key accessKeyId AWS_ACCESS_KEY
invitation_code invitationCode review_code reviewCode webhook_url webhookUrl WEBHOOK_URL
changes.api_key.old \uff50\uff57
"""
READABLE = """
country_code ordering_key key code url status_code primary_key keyboard monkey secretary
passenger compass address tokenize stoken invitation review webhook private access api ping
key_api url_webhook author authority cookbook description pwned swap hotpot
"""


@pytest.mark.parametrize("key", SECRETS.split())
def test_a_key_with_a_secret_word_or_pair_of_words_is_redacted(key):
    assert is_secret(key)
    assert redact({key: {"deep": "hunter2"}}) == {key: REDACTED}


@pytest.mark.parametrize("key", READABLE.split())
def test_a_key_that_only_contains_the_letters_stays_readable(key):
    assert redact({key: "value"}) == {key: "value"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("X-Api-Key", ("x", "api", "key")),
        ("HTTPServerURL", ("http", "server", "url")),
        ("a.b c_d-e/f", ("a", "b", "c", "d", "e", "f")),
        ("---", ()),
    ],
)
def test_words_are_split_at_signs_and_capitals(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    "value",
    [
        {"name": "api_key", "value": "hunter2"},
        {"key": "Authorization", "value": "hunter2"},
        {"field": "password", "old": "hunter2", "new": "hunter2"},
        {"header": "Cookie", "values": ["hunter2"]},
        [["Authorization", "hunter2"], ["Accept", "text/html"]],
        {"headers": [["accept", "x"], ["x-api-key", "hunter2"]]},
        {"changes": {"client_secret": {"old": "hunter2", "new": "hunter2"}}},
        [{"a": [{"nested": {"token": ["hunter2"]}}]}],
    ],
)
def test_a_secret_is_redacted_wherever_its_name_stands(value):
    assert "hunter2" not in json.dumps(redact(value))
    assert "hunter2" not in readable(value)


def test_a_list_of_words_is_no_list_of_pairs():
    assert redact({"fields": ["password", "email"]}) == {"fields": ["password", "email"]}
    assert redact([["a", 1], ["token", 2], ["b"]]) == [["a", 1], ["token", 2], ["b"]]


def test_the_result_of_a_step_with_a_secret_name_is_redacted():
    assert redact_named("fetch access token", "hunter2") == REDACTED
    assert redact_named("fetch access token", None) is None
    assert redact_named("charge", {"password": "x", "n": 1}) == {"password": REDACTED, "n": 1}


def test_a_project_names_words_and_groups_of_words_of_its_own():
    names = ["ssn", "date of birth", "bankAccount"]
    with override_settings(GENERAL_MANAGER={"WORKFLOW_REDACT": names}):
        shown = redact({
            "user_ssn": 1, "dateOfBirth": 2, "bank_account": 3, "date": 4, "bank": 5, "password": 6,
        })  # fmt: skip
    assert shown == {
        "user_ssn": REDACTED, "dateOfBirth": REDACTED, "bank_account": REDACTED, "date": 4,
        "bank": 5, "password": 6,
    }  # fmt: skip


@pytest.mark.parametrize("value", [None, "text", 1, [], {}, [None, 1], "null"])
def test_what_is_no_mapping_is_shown_as_it_is(value):
    assert redact(value) == value
    assert readable(value)


def test_an_excerpt_is_bounded_and_says_what_it_leaves_out():
    value = {
        "long": "x" * 10_000_000,
        "many": list(range(100_000)),
        "fields": {f"field{number}": number for number in range(100_000)},
        "deep": json.loads("[" * 500 + "]" * 500),
    }
    text = readable(value)
    assert len(text) < 100_000
    for words_ in ("(10,000,000 characters in all)", "99,500 more"):
        assert words_ in text
    assert len(json.dumps(excerpt([[["x"] * 400] * 400] * 400))) < 1_000_000


def test_a_long_key_is_cut_and_costs_no_lasting_memory():
    redaction._is_secret.cache_clear()
    for number in range(50):
        redact({f"{number}" + "k" * 1_000_000: 1})
    kept = redaction._is_secret.cache_info().currsize
    assert kept == 50
    assert len(readable({"k" * 1_000_000: 1})) < 1_000
    assert is_secret("password" + "-" * 1_000_000)


def test_what_is_read_out_cannot_move_a_terminal():
    text = readable({"\x1b[2J": "\u202eabc\x9b\ud800"})
    assert text.isascii()
    assert "\x1b" not in text
