"""What a release brings along: an SBOM in CycloneDX of the environment that its wheel was installed into.

``python -m connector.studies.release.bill_of_materials PYTHON FILE`` writes it; PYTHON is the environment's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from connector import __version__

__all__ = ["BillError", "bill_of_materials"]

_OWN = "rh-connector"
# The environment is another one than that which runs this.
_ASK = f"""
import importlib.metadata, json
print(json.dumps(str(importlib.metadata.distribution({_OWN!r}).metadata)))
"""


class BillError(Exception):
    """An environment that is not a release's, in one line."""


def bill_of_materials(python: Path) -> str:
    """The SBOM, as JSON; the release is its root, and the same environment gives the same bytes.

    Args:
        python: of an environment that holds rh-connector.

    Raises:
        BillError: it holds none, another version, or lacks what that requires.
        FileNotFoundError: there is no such Python, or the extra dev is not installed.
    """
    metadata = _metadata(python)
    program = Path(sys.executable).parent / "cyclonedx-py"
    command = [str(program), "environment", "--output-reproducible", str(python)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise BillError(f"cyclonedx-py: {listed.stderr.strip()}")
    bill: dict[str, Any] = json.loads(listed.stdout)
    own = _taken_out(bill["components"])
    if own["version"] != __version__:
        raise BillError(f"{python} holds rh-connector {own['version']}, and this is {__version__}")
    if missing := _missing(metadata, bill["components"]):
        raise BillError(f"{python} lacks what rh-connector requires: {', '.join(missing)}")
    bill["metadata"]["component"] = own
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def _metadata(python: Path) -> Metadata:
    # Not from the folder of a checkout: its package would be found first.
    asked = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise BillError(f"{python} holds no rh-connector")
    return Metadata.from_email(json.loads(asked.stdout), validate=False)


def _taken_out(components: list[dict[str, Any]]) -> dict[str, Any]:
    """The release among the components, as the root of the bill."""
    (at,) = [at for at, one in enumerate(components) if canonicalize_name(one["name"]) == _OWN]
    own = components.pop(at)
    sources = [one for one in own["externalReferences"] if one["type"] == "distribution"]
    own["externalReferences"] = [one for one in own["externalReferences"] if one["type"] != "distribution"]
    # Where the wheel lay on this machine is nobody's business; its digest is everybody's.
    hashes = [each for one in sources for each in one.get("hashes", ())]
    found = {**own, "type": "application", "purl": f"pkg:pypi/{_OWN}@{own['version']}"}
    return {**found, "hashes": hashes} if hashes else found


def _missing(metadata: Metadata, components: Sequence[Mapping[str, Any]]) -> list[str]:
    there = {canonicalize_name(one["name"]) for one in components}
    return sorted(wanted.name for wanted in metadata.requires_dist or () if _needed(wanted, there))


def _needed(wanted: Requirement, there: set[Any]) -> bool:
    # No extra: what those bring is a choice of who installs.
    asked = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    return asked and canonicalize_name(wanted.name) not in there


def main(arguments: list[str]) -> int:
    """Write the file; 1 and a line where the environment is no release's."""
    target = Path(arguments[1])
    try:
        bill = bill_of_materials(Path(arguments[0]))
    except (BillError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    target.write_text(bill, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
