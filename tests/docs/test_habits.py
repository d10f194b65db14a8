"""The files for people and services around the code.

Oracles: the schemas of GitHub workflows and of CITATION.cff that check-jsonschema brings, and the Makefile.
"""

import re
import subprocess
import sys

import pytest
import yaml

import landuse
from tests.docs.pages import ROOT

WORKFLOW, CITATION = ROOT / ".github" / "workflows" / "ci.yml", ROOT / "CITATION.cff"


def fits(schema, path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("schema", "path", "key"),
    [
        ("vendor.github-workflows", WORKFLOW, "runs-on"),
        ("vendor.citation-file-format", CITATION, "cff-version"),
    ],
)
def test_files_fit_their_schemas(tmp_path, schema, path, key):
    assert fits(schema, path)
    broken = tmp_path / path.name
    broken.write_text(path.read_text("utf-8").replace(key, "wrong"))
    assert not fits(schema, broken)


def test_the_workflow_runs_what_is_run_by_hand():
    steps = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]["run"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    assert set(re.findall(r"^make (.*)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)) == {
        "check test",
        "demo docs",
    }


def test_hooks_are_those_of_make_check():
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == checks


def test_the_citation_names_this_version():
    citation = yaml.safe_load(CITATION.read_text("utf-8"))
    assert citation["version"] == landuse.__version__
    assert citation["license"] == "MIT"
