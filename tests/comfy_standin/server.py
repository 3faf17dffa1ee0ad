"""The server's door for messages to the browser; a test puts something with `send_sync` behind it."""

from __future__ import annotations

from typing import Any, ClassVar


class PromptServer:
    instance: ClassVar[Any] = None
