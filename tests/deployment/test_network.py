"""The manifests of the base, read without kubectl: valid, and closed but for what is written down."""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.webhooks.test_addresses import REFUSED

ROOT = Path(__file__).parents[2]
Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [dict(document) for document in yaml.safe_load_all(path.read_text())]


def test_manifests_of_the_base_are_valid_without_kubectl() -> None:
    base = ROOT / "k8s/base"
    (kustomization,) = documents(base / "kustomization.yaml")
    patches = {patch["path"] for patch in kustomization["patches"]} | {"own-secret.yaml", "kustomization.yaml"}
    assert {path.name for path in base.glob("*.yaml")} == patches | set(kustomization["resources"])
    for document in [found for name in kustomization["resources"] for found in documents(base / name)]:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def policies() -> dict[str, Document]:
    return {found["metadata"]["name"]: found["spec"] for found in documents(ROOT / "k8s/base/network.yaml")}


def test_only_the_api_is_asked_and_nobody_asks_more_than_its_parts() -> None:
    found = policies()
    assert [name for name, policy in found.items() if policy.get("ingress")] == ["requests"]
    assert found["requests"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prompt-api"}
    assert found["deny-all"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(found["deny-all"])
    ports = {
        name: [port["port"] for rule in policy.get("egress", []) for port in rule["ports"]]
        for name, policy in found.items()
    }
    assert {name: port for name, port in ports.items() if port} == {
        "database": [53, 53, 5432],
        "objects": [443],
        "redis": [6379],
        "internet": [443],
    }
    (named,) = found["objects"]["podSelector"]["matchExpressions"]
    assert "webhooks" not in named["values"]


@pytest.mark.parametrize("address", [*REFUSED.values()])
def test_the_network_keeps_webhooks_from_the_addresses_that_the_sender_refuses(address: str) -> None:
    (rule,) = policies()["internet"]["egress"]
    unwrapped = ip_address(address.partition("%")[0])
    blocks = [
        place["ipBlock"] for place in rule["to"] if ip_network(place["ipBlock"]["cidr"]).version == unwrapped.version
    ]
    inside = [block for block in blocks if unwrapped in ip_network(block["cidr"])]
    is_global_with_zone = "%" in address and unwrapped.is_global
    assert is_global_with_zone or all(
        any(unwrapped in ip_network(hole) for hole in block["except"]) for block in inside
    )
