"""The files of ``examples/nightly``, each held against the program that reads it, or its schema.

Oracles: ``load_config``, systemd-analyze, cronsim, Kubernetes' own schemas (kubernetes-validate), the schema
of GitHub workflows that SchemaStore has (check-jsonschema), bash, and the command line itself.
"""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml
from cronsim import CronSim

import landuse
from landuse.cli import app
from landuse.workflows.nightly.config import AreaConfig, NightlyConfig, load_config

FOLDER = Path(__file__).parents[3] / "examples" / "nightly"
UNITS = ("landuse-nightly.service", "landuse-nightly.timer")
PROGRAM = "/opt/landuse/bin/landuse"
NIGHTLY_AT = (3, 30)


def test_every_example_is_checked_here():
    source = Path(__file__).read_text("utf-8")
    checked_elsewhere = {"serve_prefect.py"}  # by test_prefect_flow
    names = {path.name for path in FOLDER.iterdir() if path.is_file()} - checked_elsewhere
    assert names
    assert [name for name in names if f'"{name}"' not in source] == []


def check_command(words):
    """The command line takes these words."""
    assert Path(words[0]).name == "landuse"
    group = typer.main.get_command(app)
    for word in words[1:3]:
        group = group.commands[word]
    group.make_context(" ".join(words[:3]), list(words[3:]))


def check_cron(expression):
    """It means every night at the same time."""
    times = CronSim(expression, datetime(2026, 2, 27, tzinfo=UTC))
    nights = [next(times) for _ in range(3)]
    assert [(night.day, night.hour, night.minute) for night in nights] == [
        (d, *NIGHTLY_AT) for d in (27, 28, 1)
    ]


def check_shell(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_config(tmp_path):
    text = (FOLDER / "config.yaml").read_text("utf-8")
    (tmp_path / "config.yaml").write_text(text)
    config = load_config(tmp_path / "config.yaml", {})
    assert [area.name for area in config.areas] == ["Inn", "Orihuela"]
    assert all(area.place().boxes for area in config.areas)
    named = set(re.findall(r"^#?\s*(?:- )?([a-z_]+):", text, re.MULTILINE))
    assert named >= {*NightlyConfig.model_fields, *AreaConfig.model_fields}  # all of them are shown


def test_what_the_config_offers(tmp_path):
    """Each line that may be chosen is right when it is."""
    text = (FOLDER / "config.yaml").read_text("utf-8")
    (tmp_path / "district.gpkg").touch()
    offers = re.findall(r"^#([a-z_]+:.*)$", text, re.MULTILINE)
    assert len(offers) == 8
    ledger = next(offer for offer in offers if offer.startswith("ledger"))
    for offer in offers:
        key = offer.partition(":")[0]
        chosen = re.sub(rf"^{key}:.*\n", "", text, flags=re.MULTILINE).replace(f"#{offer}", offer)
        if key == "out":  # elsewhere: a ledger is needed, and there is no Prometheus
            chosen = re.sub(r"^metrics_file:.*\n", "", chosen, flags=re.MULTILINE).replace(
                f"#{ledger}", ledger
            )
        (tmp_path / "config.yaml").write_text(chosen)
        config = load_config(tmp_path / "config.yaml", {"LEDGER_PASSWORD": "x"})
        assert getattr(config, key) is not None
    (tmp_path / "config.yaml").write_text(text.replace("\n#  ", "\n  "))
    assert load_config(tmp_path / "config.yaml", {}).areas[-1].name == "district"


def test_crontab():
    lines = (FOLDER / "crontab").read_text("utf-8").splitlines()
    assignments = [line for line in lines if re.match(r"[A-Z]+=", line)]
    (entry,) = [line for line in lines if line and not line.startswith("#") and line not in assignments]
    assert assignments == ["SHELL=/bin/sh"]
    fields = entry.split(maxsplit=6)
    check_cron(" ".join(fields[:5]))
    assert fields[5] == "landuse"  # the user
    assert "%" not in fields[6]  # a line break to cron
    check_shell(fields[6])
    check_command(shlex.split(re.search(rf"{PROGRAM} [^>]*", fields[6])[0]))


def unit(name):
    """The unit's sections; duplicate keys, which systemd would add up, are errors here."""
    parser = configparser.ConfigParser(
        strict=True,
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#",),
        empty_lines_in_values=False,
    )
    parser.optionxform = str
    parser.read_string((FOLDER / name).read_text("utf-8"))
    return parser


def test_systemd_units_fit_together():
    service, timer = (unit(name) for name in UNITS)
    assert service.sections() == ["Unit", "Service"]
    assert timer.sections() == ["Unit", "Timer", "Install"]
    assert service["Service"]["Type"] == "oneshot"
    assert timer["Timer"].keys() == {"OnCalendar", "RandomizedDelaySec", "Persistent"}
    assert re.fullmatch(r"\*-\*-\* 03:30:00 UTC", timer["Timer"]["OnCalendar"])
    check_command(shlex.split(service["Service"]["ExecStart"]))
    folder = service["Service"]["WorkingDirectory"]
    assert service["Service"]["EnvironmentFile"] == f"-{folder}/nightly.env"
    assert service["Service"]["ReadWritePaths"] == folder


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_takes_its_units(tmp_path):
    for name in UNITS:
        # Nothing is installed in /opt, which is all that would be wrong.
        (tmp_path / name).write_text((FOLDER / name).read_text("utf-8").replace(PROGRAM, sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    told = [line for line in done.stderr.splitlines() if "landuse-nightly" in line]
    assert (done.returncode, told) == (0, [])
    (tmp_path / UNITS[1]).write_text((tmp_path / UNITS[1]).read_text().replace("03:30", "33:30"))
    broken = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert "Failed to parse calendar" in broken.stderr  # it does look


def test_kubernetes_cronjob():
    job = yaml.safe_load((FOLDER / "kubernetes-cronjob.yaml").read_text("utf-8"))
    kubernetes_validate.validate(job, "1.31", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job | {"spec": job["spec"] | {"shedule": "x"}}, "1.31", strict=True)
    check_cron(job["spec"]["schedule"])
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_command(container["command"])
    assert container["image"] == f"landuse-cluster:{landuse.__version__}"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][-1] == f"{mounts['config']}/config.yaml"
    assert not any(re.search("KEY|TOKEN|PASSWORD|SECRET", entry["name"]) for entry in container["env"])


def test_github_actions(tmp_path):
    path = FOLDER / "github-actions.yaml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, path], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yaml"
    broken.write_text(path.read_text("utf-8").replace("runs-on", "run-on"))
    assert subprocess.run([*command, broken], capture_output=True, check=False).returncode == 1
    workflow = yaml.safe_load(path.read_text("utf-8"))
    check_cron(workflow[True]["schedule"][0]["cron"])  # YAML 1.1 takes the key `on` for true
    scripts = [step["run"] for step in workflow["jobs"]["nightly"]["steps"] if "run" in step]
    assert len(scripts) == 3
    for script in scripts:
        check_shell(script)
    for script in scripts[1:]:
        check_command(shlex.split(script.partition("|")[0]))


def test_readme():
    """It names all that is there, and its commands are such."""
    text = (FOLDER / "README.md").read_text("utf-8")
    names = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert [name for name in names if f"`{name}`" not in text] == []
    for line in re.findall(r"^    (landuse [^#\n]+)", text, re.MULTILINE):
        check_command(shlex.split(line))
