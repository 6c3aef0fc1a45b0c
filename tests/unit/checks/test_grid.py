"""From state in YAML to (code, object, field), for `expose` and for the controller's caches.

Each file of grid/ adds objects to the usual cluster, or replaces some. Its first document says what
is found besides information when port 5300 of Service coredns is exposed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.apply.exposing import decide
from kubectl_istio_udp.checks.catalog import CHECKS, Severity
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.state.existing import find_exposure
from kubectl_istio_udp.state.reservations import reservation
from kubectl_istio_udp.state.snapshot import read_snapshot
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.controlling import Running, annotated, until
from tests.support.fakes import Fakes
from tests.support.jsonpath import select

GRID = sorted((Path(__file__).parent / "grid").glob("*.yaml"))


@dataclass(frozen=True)
class Case:
    """A file of the grid.

    Attributes:
        finds: (code, object, field) of each error and warning.
        objects: what is put into the cluster.
    """

    finds: list[tuple[str, ...]]
    objects: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Case:
        about, *objects = yaml.safe_load_all(path.read_text())
        if image := about.get("gateway_image"):
            objects.append(builders.gateway_pod(image=image))
        if reserved := about.get("reserved"):
            planned = builders.plan_of(
                name=reserved["name"], ports=parse_port_requests(reserved["ports"])
            )
            made = reservation(planned.exposure.spec, "run")
            made["metadata"]["creationTimestamp"] = f"{datetime.now(timezone.utc):%FT%TZ}"
            objects.append(made)
        keys = ("code", "object", "field")
        return cls([tuple(row[key] for key in keys) for row in about["finds"]], objects)

    @property
    def refused(self) -> str | None:
        """The code of the error; None if it is exposed."""
        errors = (code for code, *_ in self.finds if CHECKS[code].severity is Severity.ERROR)
        return next(errors, None)


@pytest.fixture(params=GRID, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest, server: ApiServer) -> Case:
    found = Case.read(request.param)
    server.put(*found.objects)
    return found


def test_expose_finds(case: Case, api: Api, fakes: Fakes) -> None:
    asked = ExposeRequest("default", "coredns", ports=parse_port_requests(["5300:53"]))
    existing = find_exposure(api, "default", "coredns")
    snapshot = read_snapshot(api, asked, GatewayChoice(), existing, need_proxy=True)
    # Envoy's listeners are not in the files, because they would repeat every EnvoyFilter.
    found = decide(asked, replace(snapshot, bound=None)).findings
    shown = [(f.code, str(f.object), f.field) for f in found if f.severity is not Severity.INFO]
    assert shown == case.finds


def test_the_fields_are_in_the_objects(case: Case, server: ApiServer) -> None:
    """Except for labels of a Namespace, which are what is missing."""
    for _, about, field in case.finds:
        kind, _, place = about.partition(" ")
        namespace, _, name = place.rpartition("/")
        manifest = server.get(kind, namespace, name)
        if manifest is not None and kind != "Namespace":
            assert select(manifest, field), field


def test_the_controller_refuses_the_same(case: Case, running: Running) -> None:
    running.start(mesh_configs=(("istio-system", "istio"),))
    running.server.put(annotated())
    if case.refused:
        running.tells(f"[{case.refused}]")
        assert not running.filter()
    else:
        until(running.filter)
