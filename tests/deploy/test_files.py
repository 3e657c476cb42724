"""What is in deploy/ parses, speaks of settings that exist with values that they take, and is named in the docs."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gateway import ROOT
from tokenhub.management.commands import env_example
from tokenhub.settings import ENV

DEPLOY = ROOT / "deploy"
FILES = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and path.suffix != ".tar" and path.parent.name != "__pycache__"  # of a run before
)
YAML = [path for path in FILES if path.suffix in {".yaml", ".yml"}]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
_NAME = re.compile(r"\bTOKENHUB_[A-Z][A-Z_]*")
_SUBSTITUTED = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")


def ids(paths: list[Path]) -> list[str]:
    return [path.relative_to(DEPLOY).as_posix() for path in paths]


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


def unit(path: Path) -> dict[str, list[str]]:
    """What its section [Service] says, by name. Lines may repeat, so this is no plain INI file."""
    configparser.ConfigParser(strict=False, interpolation=None).read_string(path.read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_every_variable_is_one_that_a_setting_reads(path: Path) -> None:
    names = set(_NAME.findall(path.read_text(encoding="utf-8"))) - {"TOKENHUB_X_FILE"}
    assert [name for name in names if not {name, name.removesuffix("_FILE")} & set(ENV.variables)] == []


def given() -> Iterator[tuple[str, dict[str, str]]]:
    """The variables that each way of deploying sets, with something in place of what its user fills in."""
    for name in ("compose.yaml", "compose.full.yaml"):
        for service, told in documents(DEPLOY / name)[0]["services"].items():
            env = {key: str(value) for key, value in told.get("environment", {}).items() if _NAME.fullmatch(key)}
            if env:
                filled = {key: _SUBSTITUTED.sub(lambda one: one[2] or "filled", value) for key, value in env.items()}
                yield f"{name}: {service}", filled
    (kustomization,) = documents(DEPLOY / "kubernetes/kustomization.yaml")
    lines = kustomization["configMapGenerator"][0]["literals"]
    secrets = (DEPLOY / "kubernetes/secrets.env.example").read_text(encoding="utf-8").splitlines()
    lines += [line for line in secrets if _NAME.match(line)]
    yield "kubernetes", dict(line.split("=", 1) for line in lines)
    for path in UNITS:
        pairs = (one.split("=", 1) for one in unit(path)["Environment"])
        yield path.name, {name: value for name, value in pairs if not name.endswith("_FILE")}


def test_every_value_is_one_that_its_setting_takes(tmp_path: Path) -> None:
    code = "import json; from tokenhub.settings import ENV; print(json.dumps([ENV.problems, sorted(ENV.given)]))"
    seen = 0
    for name, told in given():
        env = {key: value for key, value in os.environ.items() if not key.startswith("TOKENHUB_")}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT, env=env | told | {"TOKENHUB_DATA_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        problems, read = json.loads(done.stdout)
        assert problems == [], name
        assert set(read) >= {key for key, value in told.items() if value}, name
        seen += 1
    assert seen >= 8


@pytest.mark.parametrize("path", YAML, ids=ids(YAML))
def test_every_yaml_file_parses(path: Path) -> None:
    assert documents(path)


def test_images_are_named_by_name_and_tag_alone() -> None:
    images = [
        told["image"]
        for name in ("compose.yaml", "compose.full.yaml")
        for told in documents(DEPLOY / name)[0]["services"].values()
    ]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(images) > 8
    for image in images:
        assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?:[\w.-]+", image), image
        assert "." not in image.partition(":")[0], f"{image} names a registry"
        assert not image.endswith(":latest")


def test_the_image_has_the_version_of_the_project() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    for name in ("compose.yaml", "compose.full.yaml"):
        assert documents(DEPLOY / name)[0]["services"]["tokenhub"]["image"] == f"tokenhub:{version[1]}"
    assert documents(DEPLOY / "kubernetes/kustomization.yaml")[0]["images"] == [
        {"name": "tokenhub", "newTag": version[1]}
    ]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.full.yaml"])
def test_compose_names_what_there_is(name: str) -> None:
    (compose,) = documents(DEPLOY / name)
    services = compose["services"]
    for told in services.values():
        assert set(told.get("depends_on", ())) <= set(services)
        for volume in told.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], volume
    server = services["tokenhub"]
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
    assert server["stop_grace_period"] == "35s"


def test_kubernetes_replicas_are_probed_spread_and_given_time_to_end() -> None:
    (replicas,) = documents(DEPLOY / "kubernetes/statefulset.yaml")
    pod = replicas["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] == 35
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["exec"]["command"] == ["deploy/healthy", "alive"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    labels = replicas["spec"]["template"]["metadata"]["labels"].items()
    (disruption,) = documents(DEPLOY / "kubernetes/disruption.yaml")
    assert disruption["spec"]["selector"]["matchLabels"].items() <= labels
    services = documents(DEPLOY / "kubernetes/service.yaml")
    assert all(service["spec"]["selector"].items() <= labels for service in services)
    assert replicas["spec"]["serviceName"] in {service["metadata"]["name"] for service in services}


def test_the_kustomization_names_its_files() -> None:
    folder = DEPLOY / "kubernetes"
    (kustomization,) = documents(folder / "kustomization.yaml")
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml", "ingress.yaml"}
    assert set(kustomization["resources"]) == there


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_builds_the_kustomization(tmp_path: Path) -> None:
    folder = shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    shutil.copy(folder / "secrets.env.example", folder / "secrets.env")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        env=os.environ | {"KUBECONFIG": os.devnull}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds = [one["kind"] for one in yaml.safe_load_all(done.stdout)]
    assert {"Namespace", "ConfigMap", "Secret", "Service", "Job", "StatefulSet", "PodDisruptionBudget"} == set(kinds)


@pytest.mark.parametrize("path", UNITS, ids=ids(UNITS))
def test_a_unit_starts_what_the_project_has_as_nobody_special(path: Path) -> None:
    told = unit(path)
    assert told["User"] == ["tokenhub"]
    assert told["NoNewPrivileges"] == ["yes"]
    assert told["ProtectSystem"] == ["strict"]
    assert told["CapabilityBoundingSet"] == [""]
    for line in (*told["ExecStart"], *told.get("ExecStartPre", ())):
        program = Path(shlex.split(line)[0])
        own = program.relative_to("/opt/tokenhub")
        there = Path(sys.prefix) / own.relative_to(".venv") if own.parts[0] == ".venv" else ROOT / own
        assert os.access(there, os.X_OK), program


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", UNITS, ids=ids(UNITS))
def test_systemd_finds_no_fault_in_a_unit(path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    mine = [line for line in (done.stdout + done.stderr).splitlines() if path.stem in line]
    assert [line for line in mine if "is not executable: No such file" not in line] == []


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_passes_what_compose_gives_to_prometheus() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", "compose.yml"],
        cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_environment_is_current() -> None:
    assert (DEPLOY / ".env.example").read_text(encoding="utf-8") == env_example.text(), (
        "run: manage.py env_example > deploy/.env.example"
    )


def test_what_was_not_run_says_so_at_its_top_and_in_the_docs() -> None:
    unrun = [DEPLOY / "Dockerfile", DEPLOY / "compose.yaml", DEPLOY / "compose.full.yaml", DEPLOY / "caddy/Caddyfile"]
    unrun += (DEPLOY / "kubernetes").glob("*.yaml")
    for path in unrun:
        head = "\n".join(path.read_text(encoding="utf-8").splitlines()[:2])
        assert re.search("NOT (RUN|BUILT) where it was written", head), path
    for page in ("docker", "kubernetes"):
        assert "could not be run" in (ROOT / f"docs/deployment/{page}.md").read_text(encoding="utf-8")


def test_the_docs_name_every_file() -> None:
    docs = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    unnamed = [name for path in FILES if (name := path.relative_to(ROOT).as_posix()) not in docs]
    assert unnamed == []


def test_the_list_of_licences_names_what_is_kept_of_others() -> None:
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    kept = [path for path in (ROOT / "static").rglob("*") if path.is_file()]
    kept += [path for path in (ROOT / "tests/fixtures").iterdir() if path.is_dir()]
    assert kept

    def names(path: Path) -> list[str]:
        """It, or a folder that it is in."""
        within = path.relative_to(ROOT)
        return [f"`{within.as_posix()}`", *(f"`{one.as_posix()}/`" for one in (within, *within.parents))]

    assert [path for path in kept if not any(name in page for name in names(path))] == []
