"""`/v1/messages/count_tokens`: how long a prompt would be, without an answer to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ekiben.contract.dialect import Events
from ekiben_anthropic.conversation import conversation
from ekiben_anthropic.events import MessageEvents
from ekiben_anthropic.fields import Fields
from ekiben_anthropic.messages import shape_fields
from ekiben_anthropic.tools import tool_fields


class CountTranslation:
    """One request. Raises InvalidRequest and UnsupportedParameter."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        request = Fields(body)
        asked: dict[str, Any] = {"model": request.value("model"), "messages": conversation(request)}
        if tools := tool_fields(request).get("tools"):
            asked["tools"] = tools
        shape_fields(request)  # checked, and without a part in the count
        request.finish()
        self._asked = asked

    @property
    def body(self) -> Mapping[str, Any]:
        return self._asked

    def whole(self, answer: Mapping[str, Any]) -> bytes:
        return json.dumps({"input_tokens": answer["count"]}).encode()

    def events(self) -> Events:
        """Never asked for: a count is no stream."""
        return MessageEvents()
