"""The report of make audit on the findings of pip-audit."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).resolve().parents[2] / ".ci" / "audit.py")
assert _SPEC is not None and _SPEC.loader is not None
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3", "4"]}]}
UNKNOWN = {"name": "c", "skip_reason": "no answer"}


@pytest.mark.parametrize(
    ("packages", "code", "out", "err"),
    [
        ([GOOD, GOOD], 0, "1 of 1 packages were looked up, none of them has a known vulnerability\n", ""),
        ([GOOD, BAD], 1, "b 2: CVE-1, fixed in 3, 4\n2 of 2 packages were looked up\n", ""),
        ([GOOD, UNKNOWN], 3, "1 of 2 packages were looked up, none of them has a known vulnerability\n", "no answer"),
        ([BAD, UNKNOWN], 1, "b 2: CVE-1, fixed in 3, 4\n1 of 2 packages were looked up\n", "warning: 1 could not"),
    ],
)
def test_exit_code_and_output_follow_the_vulnerabilities_found(packages, code, out, err, capsys) -> None:
    assert audit.told(packages) == code
    said = capsys.readouterr()
    assert said.out == out and err in said.err and bool(err) == bool(said.err)


def test_a_failure_of_pip_audit_is_reported(monkeypatch, tmp_path) -> None:
    """pip-audit is not installed in this environment."""
    (package,) = audit.audited(str(tmp_path / "requirements.txt"))
    assert package["name"] == "requirements.txt" and "pip_audit" in package["skip_reason"]
