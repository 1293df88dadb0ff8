"""Known vulnerabilities of the locked packages, by pip-audit: make audit.

Exit code 0: all were looked up and none has any; 1: some have; 3: not all could be looked up, as without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SECONDS = 300


def audited(lock: str) -> list[dict[str, Any]]:
    """What pip-audit says of each package of a lock file: its name, and vulnerabilities or why they are not known."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--disable-pip",
        "--format=json",
        "--progress-spinner=off",
        "-r",
        lock,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        return json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        reason = f"no answer in {SECONDS} s"
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    return [{"name": Path(lock).name, "skip_reason": reason}]


def told(packages: Iterable[dict[str, Any]]) -> int:
    """Prints a line for each vulnerability, and one for all; returns the exit code."""
    once = {(package["name"], package.get("version", "")): package for package in packages}
    found = [
        f"{name} {version}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version'}"
        for (name, version), package in once.items()
        for one in package.get("vulns", ())
    ]
    skipped = {name: package["skip_reason"] for (name, _), package in once.items() if "skip_reason" in package}
    print(*found, sep="\n", end="\n" if found else "")
    looked_up = f"{len(once) - len(skipped)} of {len(once)} packages were looked up"
    none = not found and len(skipped) < len(once)
    print(looked_up + (", none of them has a known vulnerability" if none else ""))
    if skipped:
        name, reason = next(iter(skipped.items()))
        print(f"warning: {len(skipped)} could not be looked up from here ({name}: {reason})", file=sys.stderr)
    return 1 if found else 3 if skipped else 0


def main() -> int:
    """Audits all lock files; requirements.txt is a part of requirements-dev.txt."""
    locks = sorted(str(path) for path in Path(__file__).resolve().parents[1].glob("requirements-*.txt"))
    return told(package for lock in locks for package in audited(lock))


if __name__ == "__main__":
    sys.exit(main())
