from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.output import printing

ONE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
TWO = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "dry_run", "applied", "deleted"),
    [
        ("Service", "none", "service/x serverside-applied", 'service "x" deleted'),
        (
            "EnvoyFilter",
            "server",
            "envoyfilter.networking.istio.io/x serverside-applied (server dry run)",
            'envoyfilter.networking.istio.io "x" deleted (server dry run)',
        ),
        (
            "ServiceEntry",
            "client",
            "serviceentry.networking.istio.io/x serverside-applied (dry run)",
            'serviceentry.networking.istio.io "x" deleted (dry run)',
        ),
        (
            "Deployment",
            "none",
            "deployment.apps/x serverside-applied",
            'deployment.apps "x" deleted',
        ),
    ],
)
def test_lines_about_objects_are_kubectls(
    kind: str, dry_run: str, applied: str, deleted: str
) -> None:
    assert printing.object_line(kind, "x", "serverside-applied", dry_run) == applied
    assert printing.deleted_line(kind, "x", dry_run) == deleted


def test_yaml_documents_keep_the_order_of_fields() -> None:
    text = printing.documents([ONE, TWO], "yaml")
    assert list(yaml.safe_load_all(text)) == [ONE, TWO]
    assert text.startswith("apiVersion: v1\nkind: Service\n")


def test_one_json_document_is_the_object_and_several_are_a_list() -> None:
    assert json.loads(printing.documents([ONE], "json")) == ONE
    assert json.loads(printing.documents([ONE, TWO], "json")) == {
        "apiVersion": "v1", "kind": "List", "items": [ONE, TWO]
    }  # fmt: skip


@pytest.mark.parametrize("value", [{"a": [1, None, True]}, [], [{"good": False}]])
def test_data_comes_back(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    assert json.loads(printing.data(value, "json")) == value
    assert yaml.safe_load(printing.data(value, "yaml")) == value
    assert printing.data(value, "json").endswith("\n")


def test_a_table_is_drawn_as_kubectl_draws_it() -> None:
    rows = [["coredns", 1000000, None], ["a-longer-name", 1.50, ""]]
    assert printing.table(rows, ["name", "count", "note"]).splitlines() == [
        "NAME            COUNT     NOTE",
        "coredns         1000000",
        "a-longer-name   1.5",
    ]


def test_an_empty_table_is_its_headers() -> None:
    assert printing.table([], ["name", "age"]).split() == ["NAME", "AGE"]


def test_numbers_are_left_as_they_are() -> None:
    assert printing.table([["1e3", "0x1"]], ["a", "b"]).splitlines()[1].split() == ["1e3", "0x1"]


def test_warnings_and_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    printing.warn("mind this")
    printing.note("by the way")
    assert capsys.readouterr() == ("", "Warning: mind this\nby the way\n")


def test_a_warning_is_yellow_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    printing.warn("mind this")
    assert terminal.getvalue().replace("\x1b[33m", "").replace("\x1b[0m", "") == (
        "Warning: mind this\n"
    )
    assert terminal.getvalue().startswith("\x1b[33m")


def test_progress_rewrites_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = printing.Progress()
    progress("one")
    progress("one")
    progress("two")
    progress.clear()
    progress.clear()
    assert terminal.getvalue() == "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[K"


def test_progress_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    progress = printing.Progress()
    progress("one")
    progress.clear()
    assert capsys.readouterr() == ("", "")


def test_columns_are_three_spaces_apart() -> None:
    assert printing.table([["a", "b"]], ["name", "age"]).splitlines()[0] == "NAME   AGE"
