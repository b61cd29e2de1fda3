"""The models that there are, by the names that the page `docs/protocols.md` gives them."""

from types import ModuleType
from typing import Final

from tests.models import (
    batches,
    children,
    claims,
    commits,
    counter,
    events,
    groups,
    limits,
    lines,
    nudges,
    order,
    pause,
    queues,
    rates,
    sagas,
    schedules,
    signals,
    waits,
)

MODULES: Final = (
    counter,
    claims,
    batches,
    waits,
    signals,
    events,
    children,
    sagas,
    schedules,
    limits,
    lines,
    rates,
    order,
    pause,
    nudges,
    queues,
    commits,
    groups,
)
PROTOCOLS: Final[dict[str, ModuleType]] = {one.__name__.rpartition(".")[2]: one for one in MODULES}
