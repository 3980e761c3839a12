"""The pins of the oldest versions are the lower bounds of pyproject.toml, no more and no fewer."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def bounds() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return {one for one in every if ">=" in one}


def test_the_oldest_versions_are_those_that_the_project_allows() -> None:
    lines = (ROOT / "requirements-oldest.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) == len(set(pins))
    assert {pin.replace("==", ">=") for pin in pins} == bounds()


def test_what_users_install_has_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "dev"}
    assert {one for one in [*project["dependencies"], *sum(extras.values(), [])]} <= bounds()
