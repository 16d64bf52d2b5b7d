"""The bytes of a RulesContext -> the rules in force."""

from waterquality.v1 import log_pb2

from mesh.codec.rules import read_rule
from mesh.codec.wire import decode, unreadable
from mesh.errors import InvalidArgument
from water.parameter import BY_NUMBER
from water.rules import Rule


def read_rules_context(content: bytes) -> tuple[Rule, ...]:
    """In the order given; no bytes are no rules. Raises InvalidArgument (UNREADABLE_RECORD) for other bytes, and for a rule that
    this program cannot judge."""
    rules = []
    for message in decode(log_pb2.RulesContext, content).rules:
        try:
            rules.append(read_rule(message))
        except InvalidArgument as error:
            raise unreadable("RulesContext", f"rule {message.rule_id!r}: {error.message}: update this program") from error
        if message.parameter not in BY_NUMBER:
            problem = f"rule {message.rule_id!r} is for parameter {message.parameter}: update this program"
            raise unreadable("RulesContext", problem)
    return tuple(rules)
