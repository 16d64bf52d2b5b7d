"""How long is a page of alerts, and where does the next one start?"""

from mesh.errors import InvalidArgument
from mesh.tokens import read_token, write_token

DEFAULT_PAGE, LONGEST_PAGE = 100, 1_000
_KIND = "alerts"


def page_size(asked: int) -> int:
    """0: 100; too big: lowered to 1,000. Raises InvalidArgument for a negative one."""
    if asked < 0:
        problem = f"{asked} is negative: give 0 for the default of {DEFAULT_PAGE}, or up to {LONGEST_PAGE}"
        raise InvalidArgument(f"page_size: {problem}", fields={"page_size": problem})
    return min(asked or DEFAULT_PAGE, LONGEST_PAGE)


def write_cursor(question: str, raised_us: int, alert_id: int) -> str:
    """A token for going on after this alert in the answer to this question (a fingerprint)."""
    return write_token(_KIND, {"q": question, "a": [raised_us, alert_id]})


def read_cursor(question: str, token: str) -> tuple[int, int] | None:
    """Where to go on; None for an empty token: at the start. Raises InvalidArgument for a token of another kind of answer
    (INVALID_TOKEN) or of another question (QUESTION_CHANGED)."""
    if not token:
        return None
    content = read_token(_KIND, token, "page_token")
    if content.get("q") != question:
        problem = "belongs to a question with another filter: ask the same question again, or start without a token"
        raise InvalidArgument(f"page_token: {problem}", reason="QUESTION_CHANGED", fields={"page_token": problem})
    match content.get("a"):
        case [int(raised_us), int(alert_id)] if all(abs(part) < 2**60 for part in (raised_us, alert_id)):
            return raised_us, alert_id
    problem = "not an alerts token of this service: pass it on exactly as it was returned"
    raise InvalidArgument(f"page_token: {problem}", reason="INVALID_TOKEN", fields={"page_token": problem})
