"""`Budget`: the only object that may permit a DEEPTHINK call.

    reservation = budget.reserve()      # None when nothing is left: QUICK acts
    if reservation:
        with reservation:               # an exception inside gives the call back
            decision = deepthink.decide(...)
            reservation.settle()        # the call happened

Settled calls plus open reservations never exceed the cap, whatever the order of calls, threads, cancellations and
exceptions. The cap holds in every episode, not in expectation (LONDI-B, arXiv 2402.12061).
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Literal

from londi.errors import BudgetError

State = Literal["open", "settled", "released"]


class Reservation:
    """The right to one DEEPTHINK call; settle it when the call happened, release it when it did not."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._state: State = "open"

    @property
    def state(self) -> State:
        """`open`, `settled` or `released`."""
        return self._state

    def settle(self) -> None:
        """Charge the call. Raises `BudgetError` unless the reservation is open."""
        self._budget._close(self, "settled")

    def release(self) -> None:
        """Give the call back. Raises `BudgetError` unless the reservation is open."""
        self._budget._close(self, "released")

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget._release_if_open(self)


class Budget:
    """At most `cap` DEEPTHINK calls in an episode; `cap=None` is no limit (LONDI with a price alone).

    Thread-safe. Raises `BudgetError` for a cap that is no count.
    """

    def __init__(self, cap: int | None) -> None:
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 0):
            raise BudgetError(f"a budget is a number of calls >= 0, or none for no limit; not {cap!r}")
        self.cap = cap
        self._lock = threading.Lock()
        self._open = 0
        self._settled = 0

    @property
    def remaining(self) -> int | None:
        """Calls that can still be reserved; None where there is no limit."""
        with self._lock:
            return None if self.cap is None else self.cap - self._open - self._settled

    @property
    def spent(self) -> int:
        """Calls settled so far."""
        return self._settled

    def reserve(self) -> Reservation | None:
        """Reserve one call; None when the budget is used up."""
        with self._lock:
            if self.cap is not None and self._open + self._settled >= self.cap:
                return None
            self._open += 1
            return Reservation(self)

    def _close(self, reservation: Reservation, state: State) -> None:
        with self._lock:
            if reservation._state != "open":
                raise BudgetError(f"this reservation is {reservation._state} already")
            reservation._state = state
            self._open -= 1
            self._settled += state == "settled"

    def _release_if_open(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation._state == "open":
                reservation._state = "released"
                self._open -= 1
