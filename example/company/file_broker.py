"""A file-based broker, so that the demo needs no server. Only for the demo.

Kombu's own writes a message under its final name, so a reader may find it half written. This one
writes it under a temporary name first.
"""

import json
import os
from time import monotonic_ns
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        name = f"{monotonic_ns() // 1_000_000}_{uuid4()}.{queue}.msg"
        final = os.path.join(self.data_folder_out, name)  # noqa: PTH118 - kombu's folders are strings
        unfinished = f"{final}.unfinished"
        with open(unfinished, "w") as file:  # noqa: PTH123 - the same
            json.dump(payload, file)
        os.replace(unfinished, final)  # noqa: PTH105 - the same


class Transport(filesystem.Transport):
    Channel = Channel
