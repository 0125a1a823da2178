"""The project's own files agree with each other, and install what they promise."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()

# In parts, so that this file does not find itself.
REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "registry" + ".npmjs", "crates" + ".io"]
REGISTRY_OPTIONS = ["--index" + "-url", "--extra" + "-index-url", "--find" + "-links", "--trusted" + "-host"]


def tracked_files() -> list[Path]:
    """Files under version control; skips where this is no checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def normalised(requirement: str) -> str:
    """Name in a requirement, as package indexes compare it (PEP 503)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def locked_versions() -> dict[str, str]:
    pinned = re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE)
    return {normalised(name): version for name, version in pinned}


def declared() -> list[str]:
    return [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]


def test_no_tracked_file_names_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {address}"
        for path in tracked_files()
        for address in REGISTRIES
        if address.encode() in path.read_bytes()
    ]
    assert found == []


def test_lock_names_neither_sources_nor_paths_of_a_machine() -> None:
    assert [option for option in REGISTRY_OPTIONS if option in LOCK] == []
    assert re.findall(r"https?:|file:|(?<![\w.-])/\w+/\S+", LOCK) == []


def test_lock_holds_every_declared_dependency() -> None:
    assert sorted({normalised(requirement) for requirement in declared()} - locked_versions().keys()) == []


def test_lock_hashes_every_package() -> None:
    entries = re.split(r"^(?=\w)", LOCK, flags=re.MULTILINE)[1:]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock_lies_within_the_declared_ranges() -> None:
    versions = locked_versions()
    wrong = []
    for requirement in declared():
        locked = parts(versions[normalised(requirement)])
        for bound, version in re.findall(r"(>=|<)([\d.]+)", requirement):
            if (locked < parts(version)) == (bound == ">="):
                wrong.append(f"{requirement}: {versions[normalised(requirement)]}")
    assert wrong == []


def parts(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def test_every_make_target_has_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    assert phony, "the Makefile declares no .PHONY targets"
    helped = re.findall(r"^([a-z-]+):[^=\n]*## \S", makefile, re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(helped)
    defined = re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE)
    assert sorted(defined) == sorted(helped)


def test_make_without_a_target_lists_the_targets() -> None:
    listed = subprocess.run(["make", "-s"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "make setup" in listed
    assert "make run" in listed


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("", "found no Python 3.11 or newer"),
        ("/nonexistent/python3", "must be Python 3.11 or newer"),
        ("false", "must be Python 3.11 or newer"),
    ],
)
def test_setup_says_what_it_needs_without_a_usable_python(python: str, said: str, tmp_path: Path) -> None:
    for name in ["Makefile", "requirements.lock", "pyproject.toml"]:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "-s", "setup", f"PYTHON={python}"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
def test_package_name_resolves_to_this_project(name: str) -> None:
    origin = importlib.import_module(name).__file__
    assert origin is not None, f"{name} is a namespace package"
    assert Path(origin).resolve() == ROOT / name / "__init__.py"


def test_console_script_is_importable() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="freshet")
    assert script.value == PYPROJECT["project"]["scripts"]["freshet"]
    assert callable(script.load())


def test_installed_version_is_the_declared_one() -> None:
    assert importlib.metadata.version("freshet") == PYPROJECT["project"]["version"]


def test_changelog_has_an_unreleased_section() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
