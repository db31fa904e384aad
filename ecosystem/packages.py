"""The packages that bundles run on: known vulnerabilities (`make audit`) and a bill of materials.

Looked at is what requirements.txt brings into the environment of this script, in the versions that
are installed and tested there. The programs that judge and list them have an environment of their
own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tools.files import claimed, new_file

ROOT = Path(__file__).resolve().parents[1]
SBOM = "sbom.cdx.json"


def main() -> int:
    """Do one of the two, print what came of it, and return 0 only if all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["audit", "sbom"])
    parser.add_argument("--environment", default=".venv-audit", help="folder of the two programs")
    parser.add_argument("--service", default="pypi", help="audit: whom to ask, pypi or osv")
    parser.add_argument("--out", default="dist", help=f"sbom: folder to write {SBOM} to")
    arguments = parser.parse_args()
    programs = Path(arguments.environment).absolute() / "bin"
    with tempfile.TemporaryDirectory() as work:
        pinned = Path(work) / "requirements.txt"
        pinned.write_text("\n".join(installed()) + "\n")
        if arguments.task == "audit":
            return audit(programs / "pip-audit", pinned, arguments.service)
        print(f"wrote {write_sbom(programs / 'cyclonedx-py', pinned, Path(arguments.out))}")
    return 0


def installed(requirements: Path = ROOT / "requirements.txt") -> list[str]:
    """Return ``name==version`` of all that a requirements file brings in, sorted."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    found: dict[str, str] = {}
    todo = [(Requirement(line), "") for line in lines if line]
    while todo:
        wanted, extra = todo.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
            continue
        package = distribution(wanted.name)
        found[name] = package.version.partition("+")[0]  # 2.13.0+cpu is the same release
        extras = ["", *wanted.extras]
        todo += [(Requirement(text), e) for text in package.requires or [] for e in extras]
    return sorted(f"{name}=={version}" for name, version in found.items())


def audit(program: Path, pinned: Path, service: str) -> int:
    """Print known vulnerabilities; 1 if there are any, 2 if not all packages could be checked."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = run([program, "--requirement", pinned, *options, "--vulnerability-service", service])
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"audit must reach the advisory service {service}, got: {reason}; nothing is checked")
        return 2
    findings = [f"{p['name']} {p['version']}: {v}" for p in packages for v in _advisories(p)]
    unchecked = [package["name"] for package in packages if "skip_reason" in package]
    checked = f"{len(packages) - len(unchecked)} of {len(packages)} packages checked"
    print("\n".join([*findings, f"{checked}, {len(findings)} known vulnerabilities"]))
    if unchecked:
        print(
            f"audit must get an answer of the advisory service {service} for each package, got "
            f"none for {', '.join(unchecked)}"
        )
        return 2
    return int(bool(findings))


def _advisories(package: dict[str, Any]) -> Iterator[str]:
    for advisory in package.get("vulns", []):
        yield f"{advisory['id']}, mended in {', '.join(advisory['fix_versions']) or 'no version'}"


def write_sbom(program: Path, pinned: Path, out: Path) -> Path:
    """Write the packages in the form of CycloneDX (JSON); same packages, same bytes."""
    with claimed(out, [SBOM]), new_file(out / SBOM) as partial:
        options = ["--output-reproducible", "--of", "JSON", "-o", partial]
        project = ["--pyproject", ROOT / "pyproject.toml"]
        done = run([program, "requirements", *project, *options, pinned])
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.strip()}")
    return out / SBOM


def run(words: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a program of the other environment."""
    if not Path(words[0]).is_file():
        raise FileNotFoundError(f"environment must hold {words[0]}, see make audit")
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
