"""RuleService: requests of rule.proto -> rules. The only place of its requests and responses."""

from typing import Any

import grpc
from waterquality.v1 import rule_pb2, rule_pb2_grpc

from alert_svc.rules import Rules
from mesh.codec.rules import take_rule, write_rule
from mesh.server import answers

_Context = grpc.aio.ServicerContext[Any, Any]


class RuleService(rule_pb2_grpc.RuleServiceServicer):
    """Served beside AlertService."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    @answers
    async def ListRules(self, request: rule_pb2.ListRulesRequest, context: _Context) -> rule_pb2.ListRulesResponse:
        rules, token, version = await self._rules.list(request.page_size, request.page_token)
        return rule_pb2.ListRulesResponse(rules=map(write_rule, rules), next_page_token=token, version=version)

    @answers
    async def SetRule(self, request: rule_pb2.SetRuleRequest, context: _Context) -> rule_pb2.SetRuleResponse:
        rule, problems = take_rule(request.rule)
        return rule_pb2.SetRuleResponse(rule=write_rule(await self._rules.set(rule, problems)))

    @answers
    async def DeleteRule(self, request: rule_pb2.DeleteRuleRequest, context: _Context) -> rule_pb2.DeleteRuleResponse:
        await self._rules.delete(request.rule_id)
        return rule_pb2.DeleteRuleResponse()
