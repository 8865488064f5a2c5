"""The mathematics of the Switcher, executable: exact answers on problems whose transition matrices are known.

- `mdp`: `SwitchingMDP`, two Markov chains to switch between; `operators`: M, T and T with budgets.
- `solve`: a price, every budget, exactly; `finite`: the same over a fixed number of steps.
- `frontier`: the best value as a function of the price, breakpoint by breakpoint; bounds on budgets from it.
- `policies`: the return, calls and distribution of calls of any Switcher.
- `generate`: random problems; `with_step_limit` makes time part of the state.

No environment is imported here. All but `mdp`, `operators` and `finite` need scipy: `pip install 'londi[theory]'`.
"""

from __future__ import annotations

from londi.theory.mdp import SwitchingMDP

__all__ = ["SwitchingMDP"]
