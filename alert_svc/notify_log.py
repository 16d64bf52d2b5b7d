"""The channel that is always there: one line in the log for each change of an alert."""

import structlog

from alert_svc.channel import Delivery

_log = structlog.get_logger()
_FOR_A_HUMAN = {"raised", "reraised", "escalated"}


class LogLine:
    """Says each change once, a warning where something began or grew. After a crash in the very moment of saying it, the line
    comes once more with `maybe_repeated`: lost would be worse."""

    name = "log"
    at_once = 100

    async def deliver(self, delivery: Delivery) -> None:
        """Does not wait, so that whoever cancels it gets the line or no line."""
        said = delivery.announced
        say = _log.warning if said.change in _FOR_A_HUMAN else _log.info
        again = {"maybe_repeated": True} if delivery.unsure else {}
        say(
            f"alert {said.change.replace('_', ' ')}",
            alert=delivery.alert_id,
            change=delivery.change,
            state=said.state,
            severity=said.severity_level,
            kind=said.kind,
            sensor=said.sensor_id,
            site=_plain(said.site_id),
            actor=_plain(said.actor),
            summary=_plain(said.summary),
            **again,
        )


def _plain(given: str) -> str:
    """Without what could move a terminal's cursor or pretend to be another line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in given)
