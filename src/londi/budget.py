"""`Budget`: the only object that may permit a DEEPTHINK call.

    reservation = budget.reserve()      # None when nothing is left: QUICK acts
    if reservation:
        with reservation:               # an exception inside gives the call back
            decision = deepthink.decide(...)
            reservation.settle()        # the call happened

Settled calls plus open reservations never exceed the cap, whatever the order of calls, threads, cancellations and
exceptions. The cap holds in every episode, not in expectation (LONDI-B, arXiv 2402.12061). A budget of tokens or
dollars is as hard: a call is admitted only if the most it can cost fits, and then settled at what it did cost.
"""

from __future__ import annotations

import math
import threading
from types import TracebackType
from typing import Literal

from londi.errors import BudgetError
from londi.usage import BUDGET_MEASURES, BudgetMeasure

_NANO = 10**9
"""Dollars are counted in billionths, costs rounded up: sums are exact, and no rounding exceeds a cap."""
State = Literal["open", "settled", "released"]


class Reservation:
    """The right to one DEEPTHINK call; settle it when the call happened, release it when it did not."""

    def __init__(self, budget: Budget, worst: float) -> None:
        self._budget = budget
        self._state: State = "open"
        self.worst = worst
        """The most it can cost, in the budget's measure."""

    @property
    def state(self) -> State:
        """`open`, `settled` or `released`."""
        return self._state

    def settle(self, cost: float | None = None) -> None:
        """Charge the call: `cost` in the budget's measure, or the most it could cost.

        Raises `BudgetError` unless the reservation is open and the cost a finite number >= 0. A cost above the worst
        case is charged in full, so that it shows in `Budget.spent`.
        """
        cost = self.worst if cost is None else cost
        if not 0 <= cost < math.inf:
            raise BudgetError(f"a call costs a finite amount >= 0, not {cost!r}")
        self._budget._close(self, "settled", cost)

    def release(self) -> None:
        """Give the call back. Raises `BudgetError` unless the reservation is open."""
        self._budget._close(self, "released", 0)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget._release_if_open(self)


class Budget:
    """At most `cap` of DEEPTHINK in an episode, in calls, tokens or dollars; `cap=None` is no limit.

    Thread-safe. Raises `BudgetError` for a cap below 0, and one that is no whole number of calls or tokens.
    """

    def __init__(self, cap: float | None, measure: BudgetMeasure = "calls") -> None:
        if measure not in BUDGET_MEASURES:
            raise BudgetError(f"a budget counts {', '.join(BUDGET_MEASURES)}; not {measure!r}")
        number = (int, float) if measure == "dollars" else int
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, number) or not 0 <= cap < math.inf):
            what = "an amount of dollars" if measure == "dollars" else f"a number of {measure}"
            raise BudgetError(f"a budget is {what} >= 0, or none for no limit; not {cap!r}")
        self.cap, self.measure = cap, measure
        self._scale = _NANO if measure == "dollars" else 1
        self._cap = None if cap is None else math.floor(cap * self._scale)
        self._lock = threading.Lock()
        self._open = self._spent = self._calls = 0  # whole units: calls, tokens, billionths of a dollar

    @property
    def remaining(self) -> float | None:
        """What can still be reserved, at least 0, in the budget's measure; None where there is no limit."""
        with self._lock:
            return None if self._cap is None else self._amount(max(0, self._cap - self._open - self._spent))

    @property
    def spent(self) -> float:
        """What was settled so far, in the budget's measure."""
        return self._amount(self._spent)

    def calls_left(self, worst: float = 1) -> int | None:
        """Return how many calls of the kind made so far still fit; None where there is no limit.

        0 exactly where `reserve(worst)` would refuse. In calls that is `remaining`. In tokens and dollars it is an
        estimate, by the mean cost of the settled calls, or by `worst` before the first: what a Switcher goes by.
        """
        units = self._units(worst)
        with self._lock:
            if self._cap is None:
                return None
            left = self._cap - self._open - self._spent
            if left < units or left <= 0:
                return 0
            typical = self._spent / self._calls if self._spent else units
            return max(1, int(left / typical)) if typical else 1

    def reserve(self, worst: float = 1) -> Reservation | None:
        """Reserve one call that costs at most `worst`, in the budget's measure; None where that does not fit.

        A spent budget permits not even a free call. Raises `BudgetError` unless `worst` is a finite number >= 0, and
        in calls 1.
        """
        if not 0 <= worst < math.inf or (self.measure == "calls" and worst != 1):
            needed = "1 in a budget of calls" if self.measure == "calls" else "a finite number >= 0"
            raise BudgetError(f"the worst case of a call is {needed}, not {worst!r}")
        units = self._units(worst)
        with self._lock:
            if self._cap is not None:
                used = self._open + self._spent
                if used + units > self._cap or used >= self._cap:
                    return None
            self._open += units
            return Reservation(self, worst)

    def charge(self, cost: float) -> None:
        """Charge in full a call that was made before, when an episode is gone on with; raises `BudgetError`."""
        if not 0 <= cost < math.inf:
            raise BudgetError(f"a call costs a finite amount >= 0, not {cost!r}")
        with self._lock:
            self._spent += self._units(cost)
            self._calls += 1

    def _units(self, amount: float) -> int:
        return math.ceil(amount * self._scale)

    def _amount(self, units: int) -> float:
        return units if self._scale == 1 else units / self._scale

    def _close(self, reservation: Reservation, state: State, cost: float) -> None:
        with self._lock:
            if reservation._state != "open":
                raise BudgetError(f"this reservation is {reservation._state} already")
            self._free(reservation, state)
            if state == "settled":
                self._spent += self._units(cost)
                self._calls += 1

    def _release_if_open(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation._state == "open":
                self._free(reservation, "released")

    def _free(self, reservation: Reservation, state: State) -> None:
        reservation._state = state
        self._open -= self._units(reservation.worst)
