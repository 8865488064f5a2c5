"""`londi verify`: every mathematical claim of docs/theory.md, checked by running it."""

from londi.verify.base import Claim, Part, Settings, Suite
from londi.verify.run import SUITES, plan, verify

__all__ = ["SUITES", "Claim", "Part", "Settings", "Suite", "plan", "verify"]
