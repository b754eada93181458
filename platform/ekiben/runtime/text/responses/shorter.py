"""`truncation: auto`: a conversation that is too long for the model, without its oldest turn."""

from __future__ import annotations

from typing import Final

from ekiben.runtime.text.responses.items import Messages

_LASTING: Final = ("system", "developer")


def drop_oldest(conversation: Messages) -> bool:
    """Drop what comes before the second of the user's messages, instructions aside.

    False when there is only one turn left: that cannot be shortened.
    """
    roles = [message["role"] for message in conversation.messages]
    start = next((index for index, role in enumerate(roles) if role not in _LASTING), len(roles))
    end = next((index for index in range(start + 1, len(roles)) if roles[index] == "user"), None)
    if end is None:
        return False
    for index in reversed(range(start, end)):
        if roles[index] not in _LASTING:
            del conversation.messages[index], conversation.sources[index]
    return True
