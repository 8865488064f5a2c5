"""Names of tasks that are known without their packages."""

from __future__ import annotations

SCIENCEWORLD = (
    *("boil", "melt", "freeze", "change-the-state-of-matter-of", "use-thermometer"),
    *("measure-melting-point-known-substance", "measure-melting-point-unknown-substance", "power-component"),
    *(
        "power-component-renewable-vs-nonrenewable-energy",
        "test-conductivity",
        "test-conductivity-of-unknown-substances",
    ),
    *("find-living-thing", "find-non-living-thing", "find-plant", "find-animal", "grow-plant", "grow-fruit"),
    *("chemistry-mix", "chemistry-mix-paint-secondary-color", "chemistry-mix-paint-tertiary-color"),
    *("lifespan-longest-lived", "lifespan-shortest-lived", "lifespan-longest-lived-then-shortest-lived"),
    *("identify-life-stages-1", "identify-life-stages-2", "inclined-plane-determine-angle"),
    *("inclined-plane-friction-named-surfaces", "inclined-plane-friction-unnamed-surfaces"),
    *("mendelian-genetics-known-plant", "mendelian-genetics-unknown-plant"),
)
"""The 30 tasks of ScienceWorld, in the order of the paper."""

PAIR_TASKS = (
    *("lifespan-longest-lived", "lifespan-shortest-lived", "lifespan-longest-lived-then-shortest-lived"),
    *("find-living-thing", "find-non-living-thing", "find-plant", "find-animal"),
    *("use-thermometer", "test-conductivity", "test-conductivity-of-unknown-substances"),
    *("chemistry-mix-paint-secondary-color", "power-component"),
)
"""Those that the built-in pair was trained on."""
