"""Exposures that the version before wrote (spec version 1; version1/*.yaml are its objects)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.names import SPEC_ANNOTATION
from tests.support.apiserver import ApiServer
from tests.unit.conftest import Run
from tests.unit.test_golden import given_in

HERE = Path(__file__).parent / "version1"
CASES = sorted(path.stem for path in HERE.glob("*.yaml"))
WITHOUT_ENTRY = {"static", "tcp-twin", "external-name"}
LISTED = {"endpoints-selectorless", "endpoints-named-port"}
NAME = "udp-default-coredns"


def stored(case: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((HERE / f"{case}.yaml").read_text(encoding="utf-8")))


def write(server: ApiServer, case: str) -> None:
    """The cluster of a case, with what the version before wrote."""
    server.put(*given_in(case)["objects"])
    for manifest in stored(case):
        whole = "labels" in manifest["metadata"]
        manager = names.MANAGER if whole else names.service_manager("default", "coredns")
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata["namespace"], metadata["name"])
        server.apply(key, manifest, manager, False, False)


def expose_again(run: Run, case: str) -> None:
    asked = given_in(case)["request"]
    words = [word for port in asked.get("ports", ()) for word in ("-p", port)]
    words += [f"--discovery={asked['discovery']}"] if "discovery" in asked else []
    mode = asked.get("options", {}).get("gateway_service")
    words += [f"--gateway-service={mode}"] if mode else []
    done = run("expose", "coredns", *words, "--no-wait")
    assert done.code == 0, done.err


@pytest.mark.parametrize("case", CASES)
def test_its_spec_is_read_and_written_in_the_new_version(case: str) -> None:
    notes = [m["metadata"].get("annotations", {}).get(SPEC_ANNOTATION) for m in stored(case)]
    for text in filter(None, notes):
        assert '"version":1' in text
        spec = ExposureSpec.from_json(text)
        assert [entry.addresses for entry in spec.entries] == ([()] if case not in WITHOUT_ENTRY
                                                               else [])  # fmt: skip
        again = spec.to_json()
        assert '"version":2' in again and ExposureSpec.from_json(again) == spec


@pytest.mark.parametrize("case", CASES)
def test_it_is_shown_as_complete(run: Run, server: ApiServer, case: str) -> None:
    write(server, case)
    done = run("get", "coredns")
    assert done.code == 0, done.err
    assert " no " not in done.out and "unreadable" not in done.out
    assert run("describe", "coredns").code == 0


@pytest.mark.parametrize("case", CASES)
def test_the_next_expose_migrates_it(run: Run, server: ApiServer, case: str) -> None:
    write(server, case)
    expose_again(run, case)
    entries = server.all("ServiceEntry")
    assert bool(entries) == (case not in WITHOUT_ENTRY)
    hosts = {host for entry in entries for host in entry["spec"]["hosts"]}
    for entry in entries:
        listed = "endpoints" in entry["spec"]
        assert listed or case not in LISTED
        assert entry["metadata"]["namespace"] == ("istio-system" if listed else "default")
        assert len(entry["spec"]["addresses"]) == 1
        assert names.guessable_host("default", "coredns") not in entry["spec"]["hosts"]
    patches = server.get("EnvoyFilter", "istio-system", NAME)["spec"]["configPatches"]
    services = [
        p["patch"]["value"].get("eds_cluster_config", {}).get("service_name", "")
        for p in patches
        if p["applyTo"] == "CLUSTER" and p["patch"]["operation"] == "ADD"
    ]
    if case not in WITHOUT_ENTRY:
        assert {service.split("|")[-1] for service in services} == hosts
    assert run("get", "coredns").code == 0
    # Settings that were not named stay.
    [before] = {
        ExposureSpec.from_json(m["metadata"]["annotations"][SPEC_ANNOTATION]).options
        for m in stored(case)
        if m["kind"] == "EnvoyFilter"
    }
    written = server.get("EnvoyFilter", "istio-system", NAME)["metadata"]["annotations"]
    assert ExposureSpec.from_json(written[SPEC_ANNOTATION]).options == before


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_all_of_its_objects_are_deleted(
    run: Run, server: ApiServer, case: str, again: bool
) -> None:
    server.put(*given_in(case)["objects"])
    before = {key for key in server.there() if key[0] != "Event"}
    write(server, case)
    if again:
        expose_again(run, case)
    done = run("delete", "coredns", "--no-wait")
    assert done.code == 0, done.err
    assert {key for key in server.there() if key[0] != "Event"} == before
