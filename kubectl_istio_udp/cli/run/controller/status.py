"""`controller status`: read and print the state of the controller."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.controller import LEASE, NAME
from kubectl_istio_udp.state.controllers import ControllerStatus, read_controller
from kubectl_istio_udp.state.gatewaynamespaces import controller_namespace


def run(*, output: str, common: options.Common) -> int:
    """Run `controller status`, with the values of its options; the exit code."""
    api = connect(common)
    namespace = namespace_of(common, api)
    found = read_controller(api, namespace, NAME, LEASE)
    if found.deployment is None:
        printing.note(f"No controller found in namespace {namespace}.")
        printing.note(f"  {_where_else(api, namespace)}")
        return 1
    data = _data(found, namespace, found.deployment["spec"])
    if output == "table":
        _print_tables(data)
    else:
        click.echo(printing.data(data, output), nl=False)
    return 0 if data["good"] else 1


def _where_else(api: Api, namespace: str) -> str:
    """What to type if there is no controller in a namespace."""
    installed = None
    with suppress(Forbidden):
        installed = controller_namespace(api)
    if installed in (None, namespace):
        return "install it: kubectl istio-udp controller install"
    return f"it is in another one: kubectl istio-udp controller status -n {installed}"


def _data(found: ControllerStatus, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The status as plain data; docs/controller.md describes the keys."""
    return {
        "good": found.is_good,
        "controller": {
            "namespace": namespace,
            "name": NAME,
            "image": spec["template"]["spec"]["containers"][0]["image"],
            "replicas": spec["replicas"],
            "ready": found.ready,
            "leader": found.holder,
        },
        "exposures": len(found.exposures),
        "unmet": [
            {
                "namespace": each.namespace,
                "service": each.name,
                "exposed": each.exposed,
                "reason": each.reason,
                "message": each.message,
            }
            for each in found.unmet
        ],
        "conditions": [
            {
                "kind": each.kind,
                "namespace": each.namespace,
                "name": each.name,
                "at": each.part,
                "type": each.type,
                "reason": each.reason,
                "message": each.message,
            }
            for each in found.failing
        ],
    }


def _print_tables(data: Mapping[str, Any]) -> None:
    of, unmet, conditions = data["controller"], data["unmet"], data["conditions"]
    refused = {(each["kind"], each["namespace"], each["name"]) for each in conditions}
    row = [of["name"], f"{of['ready']}/{of['replicas']}", of["leader"] or "<none>"]
    row += [data["exposures"], len(unmet) + len(refused), of["image"]]
    headers = ["controller", "ready", "leader", "exposures", "unmet", "image"]
    click.echo(printing.table([row], headers))
    if unmet:
        rows = [
            [
                each["namespace"],
                each["service"],
                "as before" if each["exposed"] else "no",
                each["message"],
            ]
            for each in unmet
        ]
        click.echo("\n" + printing.table(rows, ["namespace", "service", "exposed", "why not"]))
    if conditions:
        keys = ("at", "type", "reason", "message")
        rows = [
            [each["namespace"], f"{each['kind']}/{each['name']}", *(each[key] for key in keys)]
            for each in conditions
        ]
        headers = ["namespace", "object", "at", "condition", "reason", "message"]
        click.echo("\n" + printing.table(rows, headers))
