"""Kafka's errors in our words."""

from confluent_kafka import KafkaError, KafkaException

from mesh.errors import Unavailable

LOG_AWAY = "LOG_AWAY"
LOG_REPLACED = "LOG_REPLACED"
_BREAKING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)
_UNKNOWING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_UNKNOWING_IDS = (KafkaError.UNKNOWN_TOPIC_ID, KafkaError.INCONSISTENT_TOPIC_ID)


def error_of(raised: BaseException) -> KafkaError | None:
    """The driver's error inside an exception of its."""
    inside = raised.args[0] if isinstance(raised, KafkaException) and raised.args else None
    return inside if isinstance(inside, KafkaError) else None


def away(problem: str) -> Unavailable:
    """Kafka does not do what it was asked for."""
    return Unavailable(f"Kafka does not answer as it should: {problem}", reason=LOG_AWAY)


def told(error: KafkaError | BaseException) -> str:
    """What an error says, with its name."""
    inside = error if isinstance(error, KafkaError) else error_of(error)
    return f"{inside.name()}: {inside.str()}" if inside is not None else f"{type(error).__name__}: {error}"


def translated(raised: BaseException) -> Unavailable:
    """Our error for one of the driver's."""
    return raised if isinstance(raised, Unavailable) else away(told(raised))


def breaks_a_connection(error: KafkaError) -> bool:
    """True for what may stand between two different logs at one address: a connection that was there has ended, or a topic is
    not known any more. A connection that was not made is none: where it is made later, one has ended before."""
    code = error.code()
    if code in _BREAKING:
        return "Connect to" not in error.str()
    return code in _UNKNOWING or code in _UNKNOWING_IDS
