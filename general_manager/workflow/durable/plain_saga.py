"""A saga in code that no execution runs, such as a handler that is called by a test."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

from asgiref.sync import sync_to_async

from general_manager.escaping import get_logger
from general_manager.workflow.core.coroutines import require_a_thread, settled
from general_manager.workflow.durable.undos import registered_late
from general_manager.workflow.engine import Retry

logger = get_logger(__name__)


class PlainSaga:
    """A saga outside an execution: its undos are called at once, in this process."""

    def __init__(self) -> None:
        self._undos: list[tuple[str, Callable[[], Any]]] = []
        self._is_left = False

    def __enter__(self) -> Self:
        require_a_thread("with saga(...)", "async with saga(...)")
        return self

    async def __aenter__(self) -> Self:
        return self

    def __call__(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        atomic: bool = True,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> None:
        if self._is_left:
            raise registered_late(name)
        del atomic, retry  # there is nothing to commit it with, and nothing that could wait
        self._undos.append((name, partial(fn, *args, **kwargs)))

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await sync_to_async(self._left, thread_sensitive=True)(error)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._left(error)

    def _left(self, error: BaseException | None) -> None:
        self._is_left = True
        if isinstance(error, Exception):
            for name, undo in reversed(self._undos):
                try:
                    settled(undo())
                except Exception:  # the others run, and the first exception goes on
                    logger.exception("Undo %r failed", name)
