"""Settings of a webhook that could never work are refused at start, each problem with its mend and without the secret."""

import base64

import pytest
from pydantic import SecretStr

from alert_svc.webhook import webhooks
from alert_svc.webhook_checks import check_webhook
from mesh.errors import SetupError
from mesh.settings import Settings
from tests.alert.receiver import SECRET


def configured(url: str = "https://hook.example/a", secret: str = SECRET, private: bool = False) -> Settings:
    return Settings(webhook_url=url, webhook_secret=SecretStr(secret), webhook_private=private)


def a_secret(length: int) -> str:
    return "whsec_" + base64.b64encode(b"k" * length).decode()


@pytest.mark.parametrize(
    "url", ["https://hook.example", "https://hook.example:8443/a?key=b", "https://8.8.8.8/", "https://bücher.example/"]
)
def test_a_usable_webhook_has_no_problem(url: str) -> None:
    assert check_webhook(configured(url)) == []
    assert len(webhooks(configured(url))) == 1


def test_no_webhook_is_fine_also_with_a_secret() -> None:
    assert check_webhook(Settings()) == []
    assert webhooks(configured("")) == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("hook.example/a", "scheme"),
        ("ftp://hook.example/", "scheme 'ftp'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("https:///path", "no host"),
        ("https://", "no host"),
        ("https://ines:pass@hook.example/", "user name or password"),
        ("https://ines@hook.example/", "user name or password"),
        ("https://hook.example/#top", "#"),
        ("https://hook.example:0/", "port 0"),
        ("https://hook.example:99999/", "port 99999"),
        ("https://hook.exa mple/", "blanks"),
        ("https://hook.example/\n", "control characters"),
        ("https://hook.example/" + "a" * 2000, "2,000 characters"),
        ("https://[::1/", "no URL"),
        ("https://" + "a" * 300 + ".example/é\u0080", "control characters"),
        ("http://hook.example/", "no TLS"),
        ("https://127.0.0.1/", "not public"),
        ("https://10.0.0.1:8080/", "not public"),
        ("https://[::1]/", "not public"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("https://[64:ff9b::7f00:1]/", "not public"),
        ("https://localhost/", "not public"),
        ("https://printer.local/", "not public"),
    ],
)
def test_a_url_that_cannot_be_used_is_named_with_its_mend(url: str, problem: str) -> None:
    problems = check_webhook(configured(url))
    assert any(problem in said for said in problems), problems
    assert all(said.startswith("webhook_url") and ":" in said for said in problems)
    assert "pass@" not in str(problems)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/", "https://10.0.0.1/", "http://localhost/", "http://[::1]/"])
def test_a_private_target_is_allowed_where_it_is_asked_for(url: str) -> None:
    assert check_webhook(configured(url, private=True)) == []


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "needs webhook_secret"),
        ("hunter2", "does not begin with whsec_"),
        ("whsec_hunter2!", "is not base64"),
        ("whsec_", "holds 0 bytes"),
        (a_secret(23), "holds 23 bytes"),
        (a_secret(65), "holds 65 bytes"),
        ("whsec_" + "é" * 32, "is not base64"),
    ],
)
def test_a_secret_that_cannot_be_used_is_said_and_never_shown(secret: str, problem: str) -> None:
    (said,) = check_webhook(configured(secret=secret))
    assert problem in said
    assert "openssl rand" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("secret", [a_secret(24), a_secret(64), a_secret(32).rstrip("="), SECRET])
def test_a_secret_of_the_right_size_is_fine_with_and_without_padding(secret: str) -> None:
    assert check_webhook(configured(secret=secret)) == []


def test_every_problem_is_said_at_once() -> None:
    with pytest.raises(SetupError) as caught:
        webhooks(configured("http://ines:pass@127.0.0.1:0/#x", "hunter2"))
    told = caught.value.message
    for part in ("user name", "#...", "port 0", "no TLS", "not public", "whsec_"):
        assert part in told
    assert "hunter2" not in told
    assert "pass@" not in told
