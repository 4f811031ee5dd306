"""CITATION.cff is what the Citation File Format 1.2.0 asks for, and agrees with the package."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def test_citation_is_whole_and_agrees():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(found), "required by the format"
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert str(found["version"]) == project["version"]
    assert found["license"] == project["license"]
    assert all(author.get("name") or author.get("family-names") for author in found["authors"])
    titles = [reference["title"] for reference in found["references"]]
    assert titles[0].startswith("DeepZero")
    assert titles[1].startswith("Solver-in-the-Loop")
    for reference in found["references"]:
        assert {"type", "title", "authors", "year", "url"} <= set(reference)
        assert all({"family-names", "given-names"} == set(a) for a in reference["authors"])


def test_classifiers_begin_with_the_oldest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert versions == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={versions[0]}"
