from __future__ import annotations

import subprocess
from pathlib import Path

from londi import provenance


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_commit_of_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    assert provenance.commit(package) is None
    git(tmp_path, "init")
    assert provenance.commit(package) is None, "in a checkout, but not part of it (a site-packages folder)"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    clean = provenance.commit(package)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "note").write_text("elsewhere\n")
    assert provenance.commit(package) == clean
    (package / "a.py").write_text("a = 2\n")
    assert provenance.commit(package) == f"{clean}-dirty"


def test_what_is_described() -> None:
    found = provenance.describe(["cpu", "cpu", "cuda:99"])
    assert found["packages"]["londi"]
    assert list(found["devices"]) == ["cpu", "cuda:99"]
    assert found["devices"]["cuda:99"] == "not available"
    assert found["devices"]["cpu"] == found["machine"]["processor"]
