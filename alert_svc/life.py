"""The life of an alert after ISA-18.2: which state follows which, and what a person may do in each."""

from mesh.codec.alerts import Alert, State
from mesh.errors import FailedPrecondition


def raised(ended: bool) -> State:
    """The state when a new episode is told of, whatever it was before: nobody has seen that one."""
    return State.RETURNED_UNACKNOWLEDGED if ended else State.UNACKNOWLEDGED


def cleared(state: State) -> State:
    """The state when the newest episode is over."""
    match state:
        case State.UNACKNOWLEDGED:
            return State.RETURNED_UNACKNOWLEDGED
        case State.ACKNOWLEDGED:
            return State.RESOLVED
    return state


def acknowledged(alert: Alert) -> State:
    """The state when a person has seen it. Raises FailedPrecondition when that makes no sense."""
    if not alert.is_open:
        raise _resolved(alert)
    match alert.state:
        case State.UNACKNOWLEDGED:
            return State.ACKNOWLEDGED
        case State.RETURNED_UNACKNOWLEDGED:
            return State.RESOLVED
    message = f"alert {alert.alert_id} is {alert.state.name}: somebody acknowledged it before, there is nothing left to do"
    raise FailedPrecondition(message, reason="ALREADY_ACKNOWLEDGED", metadata=_about(alert))


def resolved(alert: Alert) -> State:
    """The state when a person closes it, whether or not its condition is over. Raises FailedPrecondition."""
    if not alert.is_open:
        raise _resolved(alert)
    return State.RESOLVED


def _resolved(alert: Alert) -> FailedPrecondition:
    message = f"alert {alert.alert_id} is RESOLVED: it is over; if its condition comes again, that is a new alert"
    return FailedPrecondition(message, reason="ALERT_RESOLVED", metadata=_about(alert))


def _about(alert: Alert) -> dict[str, str]:
    return {"alert_id": str(alert.alert_id), "state": alert.state.name}
