"""Dollars of a call, and the tables they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from londi.config import ServerConfig
from londi.errors import ConfigError
from londi.lms.dollars import prices_of
from londi.lms.http import HTTPLM
from londi.usage import Usage


def test_dollars_of_a_usage(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text('date = 2026-01-31\n[models."a/b"]\nprompt = 1.0\ncached = 0.1\ncompletion = 4.0\n')
    prices = prices_of("a/b", str(table))
    assert prices is not None
    assert prices.date == "2026-01-31"
    assert prices.dollars(Usage(1_000_000, 200_000, 500_000)) == pytest.approx(0.8 + 0.02 + 2.0)
    assert prices_of("c", str(table)) is None
    assert prices_of("gpt-4o-mini") is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "date"),
        ("date = 2026-01-31\n[models.m]\nprompt = 1.0\n", "completion"),
        ("date = 2026-01-31\n[models.m]\nprompt = -1.0\ncompletion = 1\n", "at least 0"),
        ("date = 2026-01-31\n[models.m]\nprompt = 1.0\ncompletion = 1\ncached = 2\n", "above prompt"),
        ("date = 2026-01-31\n[models.m]\nprompt = 1.0\ncompletion = 1\npromt = 2\n", "may have"),
        ("=", "no TOML"),
    ],
)
def test_price_tables_that_are_wrong(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        prices_of("m", str(tmp_path / "prices.toml"))


def test_a_price_table_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"no price table nothing\.toml"):
        HTTPLM("toy", ServerConfig("http://test/v1", prices="nothing.toml"))
