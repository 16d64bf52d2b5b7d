"""How long is a page, and where does the next one start?"""

from collections.abc import Sequence
from typing import Any

from mesh.errors import InvalidArgument
from mesh.tokens import read_token, write_token


def page_size(asked: int, default: int, most: int) -> int:
    """0: the default; too big: lowered to `most`. Raises InvalidArgument for a negative one."""
    if asked < 0:
        problem = f"{asked} is negative: give 0 for the default of {default}, or up to {most}"
        raise InvalidArgument(f"page_size: {problem}", fields={"page_size": problem})
    return min(asked or default, most)


def write_cursor(kind: str, question: str, after: Sequence[Any]) -> str:
    """A token for going on after this place in the answer to this question (a fingerprint)."""
    return write_token(kind, {"q": question, "a": list(after)})


def read_cursor(kind: str, question: str, token: str, types: Sequence[type], field: str = "page_token") -> tuple[Any, ...] | None:
    """Where to go on; None for an empty token: at the start. Raises InvalidArgument for a token of another kind of answer
    (INVALID_TOKEN) or of another question (QUESTION_CHANGED)."""
    if not token:
        return None
    content = read_token(kind, token, field)
    if content.get("q") != question:
        problem = "belongs to a question with another filter: ask the same question again, or start without a token"
        raise InvalidArgument(f"{field}: {problem}", reason="QUESTION_CHANGED", fields={field: problem})
    after = content.get("a")
    if not isinstance(after, list) or [type(part) for part in after] != list(types) or not _fits(after):
        problem = f"not a {kind} token of this service: pass it on exactly as it was returned"
        raise InvalidArgument(f"{field}: {problem}", reason="INVALID_TOKEN", fields={field: problem})
    return tuple(after)


def _fits(after: Sequence[Any]) -> bool:
    """Numbers that a bigint can hold."""
    return all(-(2**63) <= part < 2**63 - 1 for part in after if isinstance(part, int))
