"""`wq serve`: what is wrong with its words and with its engines is said before anything is begun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import reachable_folder
from tests.flows.grounds import fresh_deployment
from tests.real import RunEngines

pytestmark = pytest.mark.timeout(300)


def serve(*words: str) -> str:
    """What `wq serve` says, which must end with exit code 1 and one error, and no trace."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WQ_")}
    done = subprocess.run([sys.executable, "-m", "wq", "serve", *words], capture_output=True, timeout=100, env=environment)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quary",), "there is no service 'quary': ingest, query, alert, archive or web"),
        (("query", "--role", "screen"), "query has no role 'screen': it has answer, record"),
        (("web", "--role", "answer"), "web has no roles"),
        (("ingest",), "no engines are configured: give --config .engines/wq.toml, which `wq engines up` writes"),
    ],
)
def test_words_that_make_no_sense_are_refused_with_those_that_would(words: tuple[str, ...], said: str) -> None:
    assert said in serve(*words)


def test_everything_that_is_wrong_with_the_engines_is_listed_at_once_with_its_mend(run_engines: RunEngines) -> None:
    with reachable_folder() as folder:
        deployment = fresh_deployment(run_engines, folder)  # nobody has migrated it
        settings = deployment.settings
        password = settings.rabbitmq_url.get_secret_value().split(":")[2].partition("@")[0]
        changed = {
            "kafka_servers": settings.kafka_servers,
            "kafka_prefix": settings.kafka_prefix,
            "rabbitmq_url": settings.rabbitmq_url.get_secret_value().replace(password, "wrong"),
            "catalog_url": settings.catalog_url.get_secret_value(),
            "s3_endpoint": settings.s3_endpoint,
            "s3_bucket": "no-such-bucket",
            "s3_access_key": settings.s3_access_key.get_secret_value(),
            "s3_secret_key": settings.s3_secret_key.get_secret_value(),
        }
        file = folder / "wrong.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in changed.items()))
        said = _serve_with(file)
    for problem in (
        f"database catalog_{settings.kafka_prefix[:-1]} is away",
        "run wq migrate, which makes it",
        "topics are missing",
        "refuses the user",
        "there is no bucket 'no-such-bucket'",
    ):
        assert problem in said, problem
    assert settings.s3_secret_key.get_secret_value() not in said
    assert password not in said


def _serve_with(file: Path) -> str:
    return serve("query", "--grpc-port", "0", "--config", str(file))
