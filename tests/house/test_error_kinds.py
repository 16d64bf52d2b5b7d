"""Every kind of error crosses the wire and comes out as what it was, and every reason is in docs/errors.md."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from mesh import errors
from mesh.errors import WIRE_KINDS, Unavailable, WaterError, from_rpc
from mesh.server import answers
from tests.house.tree import PRODUCT, ROOT, parsed, python_files
from tests.services.hosting import hosted

METHOD = "/waterquality.v1.Errors/Fail"
PAGE = (ROOT / "docs/errors.md").read_text()


class Failing:
    """A servicer with one method, which fails as it was told to."""

    def __init__(self) -> None:
        self.error: WaterError = errors.Fault("not told yet")

    @answers
    async def fail(self, request: bytes, context: Any) -> bytes:
        raise self.error


def over_the_wire(error: WaterError) -> WaterError:
    """What a client makes of the error that a servicer raised."""
    failing = Failing()
    failing.error = error
    handler = grpc.method_handlers_generic_handler(
        "waterquality.v1.Errors", {"Fail": grpc.unary_unary_rpc_method_handler(failing.fail)}
    )
    with hosted([], lambda server: server.grpc.add_generic_rpc_handlers((handler,))) as host:
        channel: Any = grpc.insecure_channel(host.address)
        with channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(METHOD)(b"", timeout=20)
    return from_rpc(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in WIRE_KINDS if kind is not Unavailable])
def test_an_error_keeps_kind_message_reason_fields_and_metadata(kind: type[WaterError]) -> None:
    sent = kind("pH is µ: be 7", reason="SOME_REASON", fields={"a.b": "too small"}, metadata={"at": "weir 1"})
    got = over_the_wire(sent)
    assert type(got) is kind
    assert (got.message, got.reason, got.fields, got.metadata) == (sent.message, sent.reason, sent.fields, sent.metadata)


def test_unavailable_keeps_when_to_try_again() -> None:
    got = over_the_wire(Unavailable("shard 1 is away", reason="DATABASE_AWAY", retry_after_s=2.5))
    assert (type(got), got.reason, got.retry_after_s) == (Unavailable, "DATABASE_AWAY", 2.5)


@pytest.mark.parametrize("kind", [kind for kind in WIRE_KINDS if kind is not Unavailable])
def test_a_kind_that_no_retry_helps_says_nothing_of_one(kind: type[WaterError]) -> None:
    assert over_the_wire(kind("no")).retry_after_s is None


def test_kinds_and_codes_are_one_to_one() -> None:
    assert len({kind.code for kind in WIRE_KINDS}) == len(WIRE_KINDS)


def test_errors_md_names_every_kind_with_its_code() -> None:
    missing = [kind.__name__ for kind in WIRE_KINDS if not re.search(rf"^\| {kind.code.name} \| {kind.__name__} \|", PAGE, re.M)]
    assert not missing


def test_errors_md_names_every_reason_and_no_other() -> None:
    named = set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.M))
    given = {reason for path in python_files(*PRODUCT) for reason in reasons(parsed(path))}
    texts = {
        node.value
        for path in python_files(*PRODUCT)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(given - named) == [], "reasons that are not in docs/errors.md"
    assert sorted(named - given - texts) == [], "reasons in docs/errors.md that nothing gives"


def reasons(tree: ast.Module) -> Iterator[str]:
    """Reasons written out where an error is made, and the default ones of the kinds."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values = [word.value for word in node.keywords if word.arg == "reason"]
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "default_reason" for target in node.targets):
            values = [node.value]
        yield from (str(value.value) for value in values if isinstance(value, ast.Constant) and value.value)
