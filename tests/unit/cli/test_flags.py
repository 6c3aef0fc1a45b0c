"""Flags in kubectl's spelling."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from kubectl_istio_udp.cli.flags import Command
from tests.support.apiserver import ApiServer
from tests.unit.conftest import Run

COMMAND = Command(
    "test",
    params=[
        click.Argument(["names"], nargs=-1),
        click.Option(["-o", "--output"], default="table"),
        click.Option(["-n", "--namespace"]),
        click.Option(["--body"]),
        click.Option(["-A", "--all-namespaces"], is_flag=True),
        click.Option(["--wait/--no-wait"], default=True),
    ],
)
DEFAULTS = {
    "names": (),
    "output": "table",
    "namespace": None,
    "body": None,
    "all_namespaces": False,
    "wait": True,
}


@pytest.mark.parametrize(
    ("line", "different"),
    [
        ("-o=json", {"output": "json"}),
        ("-ojson", {"output": "json"}),
        ("-o json", {"output": "json"}),
        ("--output=json -n=team", {"output": "json", "namespace": "team"}),
        ("-n=", {"namespace": ""}),
        ("-n=a=b", {"namespace": "a=b"}),
        ("-A=true", {"all_namespaces": True}),
        ("--all-namespaces=1", {"all_namespaces": True}),
        ("--all-namespaces=F", {}),
        ("-A=false x", {"names": ("x",)}),
        ("--wait=false", {"wait": False}),
        ("--wait=TRUE", {}),
        ("--no-wait --wait=true", {}),
        ("--no-wait=true", {"wait": False}),
        ("--no-wait=false", {}),
        ("--body -o=json", {"body": "-o=json"}),
        ("--body --wait=false", {"body": "--wait=false"}),
        ("--body=--wait=false", {"body": "--wait=false"}),
        ("-- -o=json", {"names": ("-o=json",)}),
        ("a=b c", {"names": ("a=b", "c")}),
    ],
)
def test_reads_flags_as_kubectl_writes_them(line: str, different: dict[str, Any]) -> None:
    with COMMAND.make_context("test", line.split()) as context:
        assert context.params == {**DEFAULTS, **different}


@pytest.mark.parametrize("word", ["--wait=maybe", "-A=", "--all-namespaces=yes", "-o"])
def test_rejects_a_flag_with_a_wrong_value(word: str) -> None:
    with pytest.raises(click.UsageError):
        COMMAND.make_context("test", [word])


def test_help_with_a_value() -> None:
    with pytest.raises(click.exceptions.Exit):
        COMMAND.make_context("test", ["--help=true"])


@pytest.mark.parametrize(
    "words", [["get", "-A=true", "-o=json"], ["get", "-n=default", "--output=json"]]
)
def test_every_command_reads_them(words: list[str], run: Run, server: ApiServer) -> None:
    done = run(*words)
    assert done.code == 0, done.err
    assert json.loads(done.out)["items"] == []


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("-n team get", "namespace team"),
        ("-n=team get", "namespace team"),
        ("-nteam get", "namespace team"),
        ("-n other get -n team", "namespace team"),
        ("-v --as=jane --namespace team get", "namespace team"),
        ("-n team describe nope", "namespace team"),
        ("-n team direct coredns", "namespace team"),
        ("direct -n team query coredns", "namespace team"),
        ("-n team direct query coredns", "namespace team"),
        ("-n team controller status", "namespace team"),
        ("controller -n team status", "namespace team"),
    ],
)
def test_flags_of_connecting_may_precede_the_command(
    line: str, answer: str, run: Run, server: ApiServer
) -> None:
    """As in `kubectl -n team get pods`."""
    done = run(*line.split())
    assert answer in done.out + done.err


@pytest.mark.parametrize(
    "line", ["-o json get", "-n team", "-n", "--wait get", "-n team -o json get"]
)
def test_other_flags_may_not(line: str, run: Run, server: ApiServer) -> None:
    done = run(*line.split())
    assert done.code == 2 and "No such option" in done.err


def test_one_that_is_off_does_nothing(run: Run, server: ApiServer) -> None:
    done = run("delete", "--all=false")
    assert done.code == 2
    assert "name what to delete" in done.err


@pytest.mark.parametrize("verb", ["delete", "verify"])
@pytest.mark.parametrize(("words", "where"), [(["-n", "team"], " -n team\n"), ([], "\n")])
def test_the_list_to_choose_from_is_of_the_same_namespace(
    run: Run, server: ApiServer, verb: str, words: list[str], where: str
) -> None:
    done = run(verb, *words)
    assert done.code == 2
    assert done.err.endswith(f"  list them: kubectl istio-udp get{where}")
