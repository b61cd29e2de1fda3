"""Signals, the side of the runs: how a wait is opened, found open, timed out and suspended."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.models.model import Model
from tests.models.world import COMMIT, Call, Database, Process, alone, does


class Execution(NamedTuple):
    """Keys are the order in the chain."""

    state: str = "pending"
    token: int = 0
    """Of the run that holds it; zero for none."""
    runs: int = 0
    has_signals: bool = False


class Wait(NamedTuple):
    """Keys are pairs: its execution, and its place there."""

    status: str = "open"
    signal: int = 0


class Signal(NamedTuple):
    status: str = "kept"
    is_due: bool = True
    """For a look by the sweep."""


class Clock(NamedTuple):
    is_late: bool = False
    """The time of every wait is up."""
    in_time: tuple[int, ...] = ()
    """Signals that were committed before that."""


ACTIVE = ("pending", "running", "waiting")


@dataclass(eq=False)
class Runs(Model):
    """Runs of executions with waits of one mailbox."""

    waits: int = 1
    continues: bool = False
    """The first execution ends as a new one, with waits of its own."""
    times_out: bool = False
    suspends_unless_signalled: bool = True
    time_out_asks: bool = True
    carries: bool = True

    def work(self, key: int) -> Process:
        def claim(db: Database) -> tuple[int, bool]:
            row = db.get(Execution, key)
            new = {"state": "running", "token": row.runs + 1, "runs": row.runs + 1}
            is_ours = db.update(Execution, lambda one: one.state == "pending", key, **new)
            return (row.runs + 1, row.has_signals) if is_ours else (0, False)

        token, has_signals = yield alone("begin", claim)
        if not token:
            return None
        known = yield alone("load the waits", lambda db: tuple(statuses(db, key)))
        place = next((at for at, one in enumerate(known) if one == "open"), len(known))
        if place == self.waits:
            return Call(self.end, (key, token))
        if place < len(known):
            return Call(self.found_open, (key, token, place))
        return Call(self.open_first if has_signals else self.open_last, (key, token, place))

    def open_last(self, key: int, token: int, place: int) -> Process:
        """Without signals: the wait and the suspension are one commit."""

        def suspend(db: Database, *, unless_signalled: bool) -> bool:
            return db.update(
                Execution,
                lambda row: row.token == token and not (unless_signalled and row.has_signals),
                key,
                state="waiting",
                token=0,
            )

        careful = self.suspends_unless_signalled
        done = yield does("suspend", lambda db: suspend(db, unless_signalled=careful))
        again = not done and (
            yield does("suspend though signalled", lambda db: suspend(db, unless_signalled=False))
        )
        if not (done or again):
            return None
        yield does("insert the wait", lambda db: db.put(Wait(), (key, place)))
        if again:
            yield does("settle", lambda db: settle(db, key))
        yield COMMIT
        return None

    def open_first(self, key: int, token: int, place: int) -> Process:
        """With signals: the wait, and a look at once."""
        if not (yield does("lock what is held", held(key, token))):
            return None
        yield does("insert the wait", lambda db: db.put(Wait(), (key, place)))
        yield alone("settle", lambda db: settle(db, key))
        return Call(self.suspend, (key, token, place))

    def found_open(self, key: int, token: int, place: int) -> Process:
        """Opened by an earlier run: it may be late, or have missed a signal."""
        if not (yield alone("check", lambda db: db.get(Execution, key).token == token)):
            return None
        if (yield alone("time out", lambda db: self.time_out(db, key, place))):
            return Call(self.suspend, (key, token, place))
        if not (yield does("lock what is held", held(key, token))):
            return None
        yield alone("settle", lambda db: settle(db, key))
        return Call(self.suspend, (key, token, place))

    def time_out(self, db: Database, key: int, place: int) -> bool:
        is_kept = self.time_out_asks and any(
            one.status == "kept" for one in db.rows(Signal).values()
        )
        if is_kept or not db.get(Clock).is_late:
            return False
        return db.update(Wait, lambda row: row.status == "open", (key, place), status="timed out")

    def suspend(self, key: int, token: int, place: int) -> Process:
        if not (yield does("lock what is held", held(key, token))):
            return None
        late = self.times_out

        def leave(db: Database) -> bool:
            is_open = db.get(Wait, (key, place)).status == "open"
            waits = is_open and not (late and db.get(Clock).is_late)
            state = "waiting" if waits else "pending"
            return db.update(Execution, key=key, state=state, token=0)

        yield alone("suspend, if it is open and not due", leave)
        return None

    def end(self, key: int, token: int) -> Process:
        if not (yield does("complete", completed(key, token))):
            return None
        if self.continues and key == 1:
            carried = yield does("read the old one", lambda db: db.get(Execution, key).has_signals)
            new = Execution(has_signals=carried and self.carries)
            yield does("start the next one", lambda db: db.put(new, 2))
        yield COMMIT
        return None


def newest_of(db: Database) -> int:
    return max(db.rows(Execution), default=0)


def lock_of(key: int) -> Any:
    return lambda db: db.lock(Execution, key).state


def held(key: int, token: int) -> Any:
    return lambda db: (
        db.get(Execution, key).token == token and (db.lock(Execution, key).token == token)
    )


def completed(key: int, token: int) -> Any:
    return lambda db: db.update(
        Execution, lambda row: row.token == token, key, state="completed", token=0
    )


def statuses(db: Database, key: int) -> list[str]:
    return [one.status for (mine, _), one in db.rows(Wait).items() if mine == key]


def seen(db: Database, key: int) -> tuple[Any, ...]:
    """The open wait, and the kept signals."""
    waits = [at for at, one in db.rows(Wait).items() if at[0] == key and one.status == "open"]
    kept = [number for number, one in db.rows(Signal).items() if one.status == "kept"]
    return (waits[0] if waits else None, tuple(kept))


def settle(db: Database, key: int, found: tuple[Any, ...] | None = None) -> bool:
    """Give the open wait the oldest signal, or remember on the row that there are some."""
    row = db.get(Execution, key)
    if row.state not in ACTIVE:
        return False
    wait, kept = found or seen(db, key)
    if wait is not None and kept:
        db.update(Wait, key=wait, status="done", signal=kept[0])
        db.update(Signal, key=kept[0], status="taken")
        kept = kept[1:]
        if row.state == "waiting":
            db.update(Execution, key=key, state="pending")
    return db.update(Execution, key=key, has_signals=bool(kept))
