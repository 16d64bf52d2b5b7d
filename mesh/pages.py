"""How long is a page, and where does the next one start?"""

from collections.abc import Sequence
from typing import Any

from mesh.errors import InvalidArgument
from mesh.tokens import not_ours, read_token, write_token


def page_size(asked: int, default: int, most: int) -> int:
    """0: the default; too big: lowered to `most`. Raises InvalidArgument for a negative one."""
    if asked < 0:
        problem = f"{asked} is negative: give 0 for the default of {default}, or up to {most}"
        raise InvalidArgument(f"page_size: {problem}", fields={"page_size": problem})
    return min(asked or default, most)


def write_cursor(kind: str, question: str, after: Sequence[Any]) -> str:
    """A token for going on after this place in the answer to this question (a fingerprint; empty where there is only one)."""
    return write_token(kind, {"q": question, "a": list(after)})


def read_cursor(kind: str, question: str, token: str, types: Sequence[type], field: str = "page_token") -> tuple[Any, ...] | None:
    """Where to go on, values of these types that a bigint or a text of the database can hold; None for an empty token: at the
    start. Raises InvalidArgument, naming the field, for a token of another kind of answer or of nobody's (INVALID_TOKEN) and for
    one of another question (QUESTION_CHANGED)."""
    if not token:
        return None
    content = read_token(kind, token, field)
    asked, after = content.get("q"), content.get("a")
    if not isinstance(asked, str):
        raise not_ours(kind, field)
    if asked != question:
        problem = "belongs to a question with another filter: ask the same question again, or start without a token"
        raise InvalidArgument(f"{field}: {problem}", reason="QUESTION_CHANGED", fields={field: problem})
    if not isinstance(after, list) or [type(part) for part in after] != list(types) or not all(map(_fits, after)):
        raise not_ours(kind, field)
    return tuple(after)


def _fits(part: object) -> bool:
    if isinstance(part, int):
        return -(2**63) <= part < 2**63 - 1
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in str(part))
