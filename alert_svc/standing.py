"""An alert with what its next change needs to know, and the changes of one transaction before they are written."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from alert_svc.facts import Facts, Strength
from alert_svc.outbox import Notice
from alert_svc.summary import summary
from mesh.codec.alerts import Alert, Event, State, write_alert


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert; when the newest of its episodes began, and how strong the task is that it tells of."""

    alert: Alert
    newest_us: int
    strength: Strength

    def told(self, facts: Facts) -> "Standing":
        """With these facts too: of the strongest, and the newest time."""
        alert = replace(self.alert, last_seen_us=max(self.alert.last_seen_us, facts.last_seen_us))
        if facts.strength <= self.strength:
            return replace(self, alert=alert)
        alert = replace(
            alert,
            sensor_id=facts.sensor_id,
            site_id=facts.site_id,
            region=facts.region,
            gateway_id=facts.gateway_id,
            kind=facts.kind,
            rule_id=facts.rule_id,
            contaminant_type=facts.contaminant_type,
            severity_level=facts.severity_level,
            evidence=facts.evidence,
        )
        return replace(self, alert=alert, strength=facts.strength)


@dataclass(frozen=True, slots=True)
class Episode:
    """One time that a condition held. `historical`: only backfill told of it. `alert_id`: the alert that it belongs to."""

    condition_id: str
    began_us: int
    ended_us: int | None
    historical: bool
    alert_id: int
    facts: Facts


@dataclass(slots=True)
class Changes:
    """What one transaction will write. Every step of an alert is an event; every change of state, and every rise of severity,
    also a notice, unless it is history."""

    standings: dict[int, Standing] = field(default_factory=dict)
    episodes: dict[tuple[str, int], Episode] = field(default_factory=dict)
    events: list[tuple[int, int, Event]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    absorbed: dict[int, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def put(self, old: Standing | None, new: Standing, time_us: int, actor: str, comment: str = "") -> Standing:
        """The alert as it is from now on. A comment is told even when nothing else changed."""
        state = State.UNSPECIFIED if old is None else old.alert.state
        rose = old is not None and new.alert.is_open and new.alert.severity_level > old.alert.severity_level
        moved = new.alert.state != state
        if old == new and not comment:
            return new
        new = replace(new, alert=replace(new.alert, change=1 if old is None else old.alert.change + 1))
        self.standings[new.alert.alert_id] = new
        if moved or rose or comment:
            if rose and old is not None:
                comment = "; ".join(filter(None, [comment, f"severity {old.alert.severity_level} to {new.alert.severity_level}"]))
            self._happened(new.alert, Event(time_us, actor, state, new.alert.state, comment), (moved or rose))
        return new

    def absorb(self, alert_id: int, into: int) -> None:
        """The alert is gone; what people said of it is said of the other."""
        self.standings.pop(alert_id, None)
        self.events = [happened for happened in self.events if happened[0] != alert_id]
        self.absorbed[alert_id] = into

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.standings or self.episodes or self.dropped)

    def changed(self) -> Iterable[Standing]:
        """The alerts to write, in the order in which they were made."""
        return (self.standings[alert_id] for alert_id in sorted(self.standings))

    def _happened(self, alert: Alert, event: Event, notable: bool) -> None:
        self.events.append((alert.alert_id, alert.change, event))
        if notable and not alert.historical:
            body = write_alert(alert, summary(alert), [event]).SerializeToString(deterministic=True)
            self.notices.append(Notice(alert.alert_id, alert.change, body))
