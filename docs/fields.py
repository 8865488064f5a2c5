"""Write the tables of every experiment field into docs/experiments.md, from the docstrings in londi.config.

python docs/fields.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
from pathlib import Path
from typing import Any, get_args

from londi import config, usage
from londi.prompt import PromptTemplate

PAGE = Path(__file__).parent / "experiments.md"
START, END = "<!-- fields: written by docs/fields.py -->", "<!-- end of fields -->"
SECTIONS = (
    ("Top level", config.Experiment),
    ("[env]", config.EnvConfig),
    ("[env.prompt]", PromptTemplate),
    ("[quick] and [deepthink]", config.ModelConfig),
    ("[quick.local] and [deepthink.local]", config.LocalConfig),
    ("[quick.server] and [deepthink.server]", config.ServerConfig),
    ("[switcher]", config.SwitcherConfig),
    ("[train]", config.TrainConfig),
    ("[evaluate]", config.EvaluateConfig),
)


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as TOML."""
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    if value is None:
        return "none"
    return f"`{json.dumps(value)}`"


def table(kind: type) -> list[str]:
    """Return the rows of one section; parts with sections of their own are left out."""
    parts = {part.__name__ for _, part in SECTIONS}
    words = docstrings(kind)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if str(field.type) in parts:
            continue
        rows.append(f"| `{field.name}` | {in_toml(str(field.type))} | {default(field)} | {words[field.name]} |")
    return rows


def in_toml(annotation: str) -> str:
    """Return an annotation in the words of TOML."""
    many = re.fullmatch(r"tuple\[(.*), \.\.\.\]", annotation)
    if many:
        return f"list of {in_toml(many[1])}"
    if annotation.startswith("Literal["):
        return " or ".join(f'`"{value}"`' for value in re.findall(r"['\"](\w+)['\"]", annotation))
    named = {"Measure": usage.Measure, "BudgetMeasure": usage.BudgetMeasure, "LearnerName": config.LearnerName}
    if annotation in named:
        return " or ".join(f'`"{value}"`' for value in get_args(named[annotation]))
    plain = {"str": "text", "int": "integer", "float": "number", "bool": "boolean", "dict[str, Any]": "table"}
    return plain.get(annotation.removesuffix(" | None"), annotation)


def render(page: str) -> str:
    """Return the page with fresh tables."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    lines = []
    for title, kind in SECTIONS:
        lines += [f"### {title}", "", *table(kind), ""]
    return f"{before}{START}\n\n" + "\n".join(lines) + f"\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
