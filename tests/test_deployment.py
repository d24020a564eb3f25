"""The compose files and the manifests agree with the settings, the images and the database they are for."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from shared.database import Database
from shared.models import load_entries
from shared.queue import celery_app
from shared.roles import GRANTS, create_backlog_view
from shared.schema import upgrade
from shared.settings import Settings
from shared.storage import open_store
from shared.tables import Recipe, Shard

ROOT = Path(__file__).parents[1]
COMPOSE_FILES = (ROOT / "docker-compose.yml", ROOT / "docker-compose.gpu.yml")
README = ROOT / "README.md"
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))
MANIFESTS = [ROOT / "k8s/base", *sorted(ROOT.glob("k8s/overlays/*"))]
CUSTOM_KINDS = {"ScaledObject", "TriggerAuthentication"}
ACCOUNT = "ServiceAccount"
CLUSTER_SECRETS = {
    "SYNTHCLONE_DATABASE_URL": "postgresql://user:secret@database/synthclone",
    "SYNTHCLONE_REDIS_URL": "redis://redis",
    "SYNTHCLONE_S3_ACCESS_KEY": "access",
    "SYNTHCLONE_S3_SECRET_KEY": "secret",
    "SYNTHCLONE_KEY_PEPPER": "a pepper of thirty-two characters",
}
COMPOSE_SECRETS = {
    name: f"{number:032x}"
    for number, name in enumerate(
        (
            "POSTGRES_PASSWORD",
            "S3_ROOT_PASSWORD",
            "SYNTHCLONE_KEY_PEPPER",
            "API_PASSWORD",
            "DISPATCHER_PASSWORD",
            "WORKER_PASSWORD",
            "TRAINER_PASSWORD",
            "EVALUATOR_PASSWORD",
            "WEBHOOKS_PASSWORD",
            "DISPATCHER_REDIS_PASSWORD",
            "WORKER_REDIS_PASSWORD",
            "TRAINER_REDIS_PASSWORD",
            "EVALUATOR_REDIS_PASSWORD",
        )
    )
}
# What has no value that is right everywhere, or one that is right on a single machine only.
SET_FOR_ALL = {"mode", "auth", "data_dir", "s3_endpoint", "database_url"}
DATABASE, OBJECTS, BELLS, KEYS = {"database_url"}, {"s3_access_key", "s3_secret_key"}, {"redis_url"}, {"key_pepper"}
# Who holds which secrets, and no more.
SECRETS = {
    "migrate": DATABASE | OBJECTS | KEYS,
    "operator": DATABASE | OBJECTS | KEYS,
    "registrar": DATABASE | OBJECTS,
    "prompt_api": DATABASE | OBJECTS | KEYS,
    "dispatcher": DATABASE | OBJECTS | BELLS,
    "sd_worker": DATABASE | OBJECTS | BELLS,
    "trainer": DATABASE | OBJECTS | BELLS,
    "evaluator": DATABASE | OBJECTS | BELLS,
    "webhooks": DATABASE | KEYS,
}
# Pods that nobody starts but operators, with the owner's login.
OPERATORS = ("operator", "registrar")
ASKED_AT_START: dict[str, Callable[[Settings], object]] = {
    "s3_secret_key": open_store,
    "redis_url": celery_app,
    "key_pepper": Settings.required_pepper,
}
LOGINS = {
    "migrate": "synthclone",
    "registrar": "synthclone",
    "prompt_api": "synthclone_api",
    "sd_worker": "synthclone_worker",
    **{name: f"synthclone_{name}" for name in ("dispatcher", "trainer", "evaluator", "webhooks")},
}

needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
each_manifest = pytest.mark.parametrize("folder", MANIFESTS, ids=lambda path: path.name)

Document = dict[str, Any]


def render_compose(folder: Path, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What Compose makes of both files with these secrets alone, whatever .env and the environment hold."""
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    files = [word for file in COMPOSE_FILES for word in ("-f", str(file))]
    command = ["docker-compose", "--env-file", str(folder / "env"), *files, "config"]
    return subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Document:
    found = render_compose(tmp_path_factory.mktemp("compose"), COMPOSE_SECRETS)
    assert found.returncode == 0, found.stderr
    return dict(yaml.safe_load(found.stdout))


@pytest.fixture(scope="module")
def compose(rendered: Document) -> Document:
    return dict(rendered["services"])


@pytest.fixture(scope="module")
def networks(rendered: Document) -> Document:
    return dict(rendered["networks"])


def our_services(compose: Document) -> Document:
    return {name: service for name, service in compose.items() if "build" in service}


def render_manifests(folder: Path) -> list[Document]:
    rendered = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def pods(folder: Path) -> dict[str, Document]:
    workloads = [found for found in render_manifests(folder) if found["kind"] in ("Deployment", "Job")]
    return {workload["metadata"]["name"]: workload["spec"]["template"]["spec"] for workload in workloads}


def plain_settings(folder: Path) -> dict[str, str]:
    (config,) = [data for data in config_maps(folder).values() if "models.json" not in data]
    return config


def config_maps(folder: Path) -> dict[str, dict[str, str]]:
    maps = [found for found in render_manifests(folder) if found["kind"] == "ConfigMap"]
    return {found["metadata"]["name"]: found["data"] for found in maps}


def as_settings(environment: dict[str, str]) -> Settings:
    # Lists are JSON in a variable, and an empty one is as one that is not set.
    given = {setting(name): value for name, value in environment.items() if value}
    return Settings.model_validate(
        {name: json.loads(value) if value[:1] == "[" else value for name, value in given.items()}
    )


@needs_compose
def test_compose_accepts_both_files_together(compose: Document) -> None:
    assert {path.parent.name for path in DOCKERFILES} | {"migrate", "registrar"} == set(our_services(compose))


@needs_compose
@pytest.mark.parametrize("missing", COMPOSE_SECRETS)
def test_compose_has_no_default_for_a_secret(missing: str, tmp_path: Path) -> None:
    refused = render_compose(tmp_path, {name: value for name, value in COMPOSE_SECRETS.items() if name != missing})
    assert refused.returncode != 0
    assert f"set {missing} in .env" in refused.stderr


@needs_compose
def test_the_command_in_the_readme_makes_every_secret(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    for name in .*?^    done > \.env$", README.read_text(), re.MULTILINE | re.DOTALL)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    secrets = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert render_compose(tmp_path, secrets).returncode == 0
    assert len({value for value in secrets.values() if len(value) >= 32}) == len(COMPOSE_SECRETS)


def assert_complete(name: str, settings: Settings) -> None:
    """The service sets what has no default, and finds what it asks for when it starts."""
    assert settings.model_fields_set >= SET_FOR_ALL, name
    for secret, ask in ASKED_AT_START.items():
        if secret in SECRETS[name]:
            ask(settings)


def secrets_of(settings: Settings) -> set[str]:
    return settings.model_fields_set & (DATABASE | OBJECTS | BELLS | KEYS)


@needs_compose
def test_every_compose_service_has_valid_settings_and_the_secrets_it_needs_alone(compose: Document) -> None:
    for name, service in our_services(compose).items():
        settings = as_settings(service["environment"])
        assert_complete(name, settings)
        assert secrets_of(settings) == SECRETS[name], name


@needs_compose
def test_every_compose_service_logs_in_as_itself(compose: Document) -> None:
    settings = {name: as_settings(service["environment"]) for name, service in our_services(compose).items()}
    assert {name: make_url(each.sqlalchemy_url).username for name, each in settings.items()} == LOGINS
    bells = {name: make_url(each.redis_url).username for name, each in settings.items() if each.redis_url}
    assert bells == {name: LOGINS[name].removeprefix("synthclone_") for name in bells}
    objects = {name: each.s3_access_key for name, each in settings.items() if each.s3_access_key}
    assert objects == {name: LOGINS[name].replace("_", "-") for name in objects}
    del settings["registrar"]  # an operator's, like `migrate`
    for secret in ("sqlalchemy_url", "redis_url", "s3_secret_key"):
        values = [value for each in settings.values() if (value := getattr(each, secret))]
        assert len(set(values)) == len(values), secret


def test_every_login_of_the_database_and_the_object_store_has_its_rights_written_down() -> None:
    assert {name.removeprefix("synthclone_") for name in LOGINS.values()} - {"synthclone"} == set(GRANTS) - {"keda"}
    with_objects = {LOGINS[name].removeprefix("synthclone_") for name in LOGINS if SECRETS[name] >= OBJECTS}
    assert {path.stem for path in (ROOT / "deploy/policies").iterdir()} == with_objects - {"synthclone"}


@needs_compose
def test_only_who_serves_users_or_their_servers_can_reach_the_internet(compose: Document, networks: Document) -> None:
    assert networks["inside"] == {"internal": True}
    assert {name for name, service in compose.items() if "outside" in service["networks"]} == {
        "prompt_api",
        "objects",
        "webhooks",
    }


@needs_compose
def test_compose_publishes_ports_on_loopback_alone(compose: Document) -> None:
    published = [port for service in compose.values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


@needs_compose
def test_compose_services_wait_for_the_migration_and_for_healthy_parts(compose: Document) -> None:
    for name in our_services(compose).keys() - {"migrate"}:
        waits = {other: wait["condition"] for other, wait in compose[name]["depends_on"].items()}
        assert waits.pop("migrate") == "service_completed_successfully"
        assert set(waits.values()) == {"service_healthy"}
        assert all("healthcheck" in compose[other] for other in waits)


@needs_compose
def test_services_that_keep_files_have_a_volume_for_them(compose: Document) -> None:
    mounts = {name: [volume.split(":")[1] for volume in compose[name].get("volumes", [])] for name in compose}
    with_volume = {name for name in our_services(compose) if "/var/lib/synthclone" in mounts[name]}
    assert with_volume == services_that_keep_files() | {"registrar"}


def services_that_look_models_up() -> set[str]:
    """`synthclone doctor` does it in `migrate`."""
    sources = {path.parent.name: path.parent.glob("**/*.py") for path in DOCKERFILES}
    asks = re.compile(r"\b(registered|find_model|model_of_digest)\((self\.)?_?settings")
    return {name for name, files in sources.items() if any(asks.search(file.read_text()) for file in files)} | {
        "migrate"
    }


@needs_compose
def test_services_that_look_models_up_have_the_models_file_and_the_default_model(compose: Document) -> None:
    asking = services_that_look_models_up()
    assert asking == {"prompt_api", "dispatcher", "sd_worker", "migrate"}
    built_in = f"{ROOT / 'shared/data/models.json'}:/app/models.json:ro"
    assert {name for name in our_services(compose) if built_in in compose[name].get("volumes", [])} == asking
    settings = {name: as_settings(service["environment"]) for name, service in our_services(compose).items()}
    assert {name for name, each in settings.items() if each.models_file == Path("/app/models.json")} == asking
    assert {name for name, each in settings.items() if "default_model" in each.model_fields_set} == asking


@needs_compose
def test_compose_leaves_how_images_are_drawn_at_its_defaults(compose: Document) -> None:
    settings, usual = as_settings(compose["sd_worker"]["environment"]), Settings()
    for name in ("batch_size", "compile", "default_model"):
        assert getattr(settings, name) == getattr(usual, name)


@needs_compose
def test_what_env_says_of_models_and_of_drawing_reaches_the_services(tmp_path: Path) -> None:
    chosen = {"DEFAULT_MODEL": "sd15", "BATCH_SIZE": "24", "COMPILE": "off", "MODELS_FILE": "./own.json"}
    found = render_compose(tmp_path, COMPOSE_SECRETS | {f"SYNTHCLONE_{name}": value for name, value in chosen.items()})
    services = yaml.safe_load(found.stdout)["services"]
    worker = as_settings(services["sd_worker"]["environment"])
    assert (worker.default_model, worker.batch_size, worker.compile) == ("sd15", 24, "off")
    for name in services_that_look_models_up():
        assert as_settings(services[name]["environment"]).default_model == "sd15"
        assert f"{ROOT / 'own.json'}:/app/models.json:ro" in services[name]["volumes"]


@needs_kubectl
@each_manifest
def test_every_pod_mounts_the_models_file(folder: Path, tmp_path: Path) -> None:
    path = Path(plain_settings(folder)["SYNTHCLONE_MODELS_FILE"])
    ((register, files),) = [(name, data) for name, data in config_maps(folder).items() if path.name in data]
    for name, pod in pods(folder).items():
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["register"] == str(path.parent), name
        assert {"name": "register", "configMap": {"name": register}} in pod["volumes"]
    (tmp_path / path.name).write_text(files[path.name])
    assert load_entries(tmp_path / path.name) == {}


@needs_compose
def test_an_operator_registers_images_where_trainers_and_evaluators_see_them(compose: Document) -> None:
    mounts = {name: compose[name]["volumes"] for name in ("registrar", "trainer", "evaluator")}
    assert mounts["registrar"] == mounts["trainer"] == mounts["evaluator"]
    assert compose["registrar"]["profiles"] == ["operator"]


@needs_compose
def test_every_python_command_of_compose_starts_code_that_exists(compose: Document) -> None:
    commands = {name: service["command"] for name, service in compose.items() if "command" in service}
    checks = {name: service["healthcheck"]["test"] for name, service in compose.items() if "healthcheck" in service}
    assert start_code_that_exists(commands) == {"migrate"}
    assert start_code_that_exists(checks) == {"prompt_api", "sd_worker"}


@needs_kubectl
@each_manifest
def test_every_python_command_of_the_pods_starts_code_that_exists(folder: Path) -> None:
    commands = {
        f"{name} {container['name']}": container["command"]
        for name, pod in pods(folder).items()
        for container in [*pod["containers"], *pod.get("initContainers", [])]
        if "command" in container
    }
    waiting = {f"{path.parent.name.replace('_', '-')} wait-for-schema" for path in DOCKERFILES}
    assert (
        start_code_that_exists(commands)
        == {"migrate main", *(f"{name} wait-for-schema" for name in OPERATORS)} | waiting
    )


def start_code_that_exists(commands: dict[str, list[str]]) -> set[str]:
    """Names of the commands that run Python; raises ImportError or SyntaxError, or fails, for one that cannot."""
    found = {name: words[words.index("python") + 1 :] for name, words in commands.items() if "python" in words}
    for name, (option, code) in found.items():
        assert option in ("-m", "-c"), name
        if option == "-m":
            assert importlib.util.find_spec(code), name
        else:
            imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), name, "exec"), {})
    return set(found)


def services_that_keep_files() -> set[str]:
    """Containers have read-only file systems: whoever reads the path of the data folder needs a volume there."""
    sources = {path: path.read_text() for dockerfile in DOCKERFILES for path in dockerfile.parent.glob("**/*.py")}
    return {
        path.relative_to(ROOT / "services").parts[0]
        for path, source in sources.items()
        if re.search(r"settings\.(cache_dir|data_dir|kernels_dir|objects_dir)", source)
    }


@needs_kubectl
@each_manifest
def test_pods_that_keep_files_have_a_volume_for_them(folder: Path) -> None:
    mounts = {name: pod["containers"][0]["volumeMounts"] for name, pod in pods(folder).items()}
    with_volume = {name for name in mounts if "/var/lib/synthclone" in [mount["mountPath"] for mount in mounts[name]]}
    assert {name.replace("-", "_") for name in with_volume} == services_that_keep_files() | {"registrar"}


@needs_compose
def test_gpu_overlay_gives_a_gpu_to_the_generator_and_the_trainer(compose: Document) -> None:
    with_gpu = {name for name, service in compose.items() if "gpu" in json.dumps(service.get("deploy", {}))}
    assert with_gpu == {"sd_worker", "trainer"}
    assert all(as_settings(compose[name]["environment"]).device == "cuda" for name in with_gpu)


def test_every_variable_named_in_a_deployment_file_is_a_setting() -> None:
    files = [*COMPOSE_FILES, *DOCKERFILES, *(path for path in ROOT.glob("k8s/**/*") if path.is_file())]
    named = {name.lower() for file in files for name in re.findall(r"SYNTHCLONE_([A-Z0-9_]+)", file.read_text())}
    assert named - set(Settings.model_fields) == set()


@needs_kubectl
@each_manifest
def test_manifests_render_and_pass_strict_validation(folder: Path) -> None:
    known = [found for found in render_manifests(folder) if found["kind"] not in CUSTOM_KINDS]
    for document in known:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    assert {"Deployment", "Service", "Job", "ConfigMap", "NetworkPolicy"} <= {found["kind"] for found in known}


@needs_kubectl
@each_manifest
def test_every_container_has_valid_settings_with_the_secrets_of_its_service_alone(folder: Path) -> None:
    for name, pod in pods(folder).items():
        service = name.replace("-", "_")
        own = {item["name"]: item["value"] for item in pod["containers"][0].get("env", [])}
        secrets = {key: value for key, value in CLUSTER_SECRETS.items() if setting(key) in SECRETS[service]}
        assert_complete(service, as_settings(plain_settings(folder) | secrets | own))


def setting(variable: str) -> str:
    return variable.removeprefix("SYNTHCLONE_").lower()


@needs_kubectl
@each_manifest
def test_every_pod_takes_the_secret_of_its_service_and_an_account_without_a_token(folder: Path) -> None:
    accounts = {found["metadata"]["name"]: found for found in render_manifests(folder) if found["kind"] == ACCOUNT}
    for name, pod in pods(folder).items():
        own = "owner" if name in ("migrate", *OPERATORS) else name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["envFrom"][1] == {"secretRef": {"name": f"synthclone-{own}"}}, name
        assert pod["serviceAccountName"] == name
        assert accounts[name]["automountServiceAccountToken"] is False


@needs_kubectl
@each_manifest
def test_every_container_is_locked_down(folder: Path) -> None:
    for name, pod in pods(folder).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@needs_kubectl
@each_manifest
def test_every_container_runs_an_image_that_has_a_dockerfile(folder: Path) -> None:
    images = {container["image"] for pod in pods(folder).values() for container in pod["containers"]}
    built = {image.split("/")[-1].split(":")[0].replace("-", "_") for image in images}
    assert built == {path.parent.name for path in DOCKERFILES}
    assert all(image.rpartition(":")[2][0].isdigit() for image in images)


@needs_kubectl
@pytest.mark.postgres
def test_scaling_query_counts_the_shards_that_need_a_worker(postgres_url: str) -> None:
    database = Database(postgres_url)
    upgrade(database)
    states = ("pending", "leased", "failed", "dormant")
    with database.engine.connect() as connection, Session(connection) as session:  # rolled back at the end
        create_backlog_view(connection)
        session.add(Recipe(digest="r", recipe={}, model="m"))
        session.flush()
        session.add_all(Shard(recipe_digest="r", class_key=s, start_slot=0, stop_slot=9, state=s) for s in states)
        session.flush()
        assert session.scalar(text(scaling_query())) == 2
    database.engine.dispose()


def scaling_query() -> str:
    (scaled,) = [found for found in render_manifests(MANIFESTS[1]) if found["kind"] == "ScaledObject"]
    return str(scaled["spec"]["triggers"][0]["metadata"]["query"])
