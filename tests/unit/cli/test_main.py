"""Rules for every verb: exit codes, hints, tracebacks, stdout and stderr."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kubectl_istio_udp import __version__
from kubectl_istio_udp.cli.main import VERBS, main
from tests.support.apiserver import ApiServer, Request
from tests.support.fakes import Fakes
from tests.unit.conftest import Run

EVERY = [
    ["expose", "coredns", "-p", "5300:53"],
    ["verify", "--all"],
    ["direct", "coredns"],
    ["get"],
    ["delete", "--all"],
    ["samples", "apply"],
    ["samples", "delete"],
]


def ids(words: list[str]) -> str:
    return " ".join(words)


def test_commands_do_not_look_for_garbage(run: Run, server: ApiServer) -> None:
    collecting = []
    server.seen = lambda _: collecting.append(gc.isenabled())
    assert run("get").code == 0
    assert collecting and not any(collecting)
    assert gc.isenabled()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run: Run, verb: str) -> None:
    done = run(verb, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: kubectl istio-udp {verb}")
    assert done.err == ""


def test_the_overview_lists_every_verb(run: Run) -> None:
    done = run("-h")
    assert done.code == 0
    for verb, text in VERBS.items():
        assert verb in done.out and text.split()[0] in done.out


def test_each_overview_line_is_the_verbs_own(run: Run) -> None:
    for verb, text in VERBS.items():
        assert text.rstrip(".").split()[0] in run(verb, "--help").out


def test_prints_the_version(run: Run) -> None:
    assert run("version").out == f"kubectl-istio-udp {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["expos", "coredns"], "No such command 'expos'. Did you mean 'expose'?"),
        (["get", "--nonsense"], "No such option"),
        (["get", "-o", "xml"], "'xml' is not one of"),
        (["expose"], "Missing argument 'SERVICE'"),
        (["expose", "coredns", "--timeout", "soon"], "'soon' is not a duration; write it like 10s"),
        (["expose", "coredns", "--dry-run", "maybe"], "'maybe' is not one of"),
        (["verify", "x", "--count", "0"], "0 is not in the range"),
        (["verify", "x", "--count", "101"], "101 is not in the range"),
        (["verify", "x", "--probe", "udp"], "--probe 'udp' is not one of dns, text:..., hex:..."),
        (["verify", "x", "--query", "a b c"], "--query 'a b c' is not a DNS name"),
        (["direct", "x", "--query", ""], "--query '' is not a DNS name"),
        (["direct", "x", "--one-way"], "--one-way is for protocols that do not answer"),
        (["verify", "x", "--tool-pod", "a/b/c"], "--tool-pod 'a/b/c' is neither NAME nor"),
        (["verify", "x", "--tool-pod", "A"], "--tool-pod 'A' is not a valid Kubernetes name"),
        (["verify", "x", "--tool-pod", "a", "--create-tool"], "cannot be combined with --create"),
        (
            ["direct", "x", "--tool-image", "a"],
            "with this image for the run: --create-tool --tool-image",
        ),
        (["access-log", "--every", "0"], "--every 0s is too short; Envoy accepts 1ms or more"),
        (
            ["access-log", "--gateway", "g", "--direction", "inbound"],
            "--direction only applies to sidecars, not to a gateway",
        ),
        (["direct", "/x", "--mesh", "--gateway", "g"], "  to answer at a gateway, omit --mesh"),
        (
            ["controller", "run", "--namespace-default", "allow=x"],
            "error: --namespace-default allow: 'x' is neither a port nor a port range",
        ),
        (["controller", "run", "--mesh-config", "A/b"], "--mesh-config 'A' is not a valid Kube"),
        (["demo", "-p", "abc"], "error: gateway port 'abc' is not a number"),
        (["direct"], "Usage: kubectl istio-udp direct"),
        (["controller", "install", "-n", "A", "-o", "yaml"], "--namespace 'A' is not a valid"),
        (["controller", "run", "--gateway-namespace", "A"], "--gateway-namespace 'A' is not a"),
        (["controller", "install", "--root-namespace", "A"], "--root-namespace 'A' is not a"),
        (["samples", "print", "-n", "A"], "--namespace 'A' is not a valid Kubernetes name"),
        (["get", "--gateway-namespace", ""], "--gateway-namespace '' is not a valid"),
    ],
)
def test_an_invalid_command_line_exits_with_2_and_sends_nothing(
    run: Run, server: ApiServer, words: list[str], message: str
) -> None:
    done = run(*words)
    assert done.code == 2
    assert message in done.err + done.out
    assert server.requests == []


@pytest.mark.parametrize("words", EVERY, ids=ids)
@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (403, "error: no permission to ", "  check it: kubectl auth can-i "),
        (401, "rejected the credentials", "  log in again"),
        (500, "told to answer 500", ""),
        (0, "cannot be reached", "  check it: kubectl version"),
    ],
)
def test_a_rejection_by_the_cluster_exits_with_3(
    run: Run, server: ApiServer, words: list[str], status: int, message: str, hint: str
) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        server.fail(method, ".", status)
    done = run(*words)
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert message in done.err
    assert hint in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize("words", EVERY, ids=ids)
def test_a_timeout_exits_with_3(run: Run, server: ApiServer, words: list[str]) -> None:
    for method in ("GET", "PATCH"):
        server.fail(method, ".", -1)
    done = run(*words, "--request-timeout", "50ms")
    assert done.code == 3
    assert "did not answer within 0.05s" in done.err


@pytest.mark.parametrize("words", EVERY[:5], ids=ids)
def test_reports_a_cluster_without_istio(run: Run, server: ApiServer, words: list[str]) -> None:
    server.installed -= {"EnvoyFilter", "ServiceEntry"}
    done = run(*words)
    if words[0] == "direct":
        assert done.code == 0
    else:
        assert done.code == 3
        assert "Istio's CRDs are not installed" in done.err


@pytest.mark.parametrize("words", EVERY, ids=ids)
def test_a_missing_kubeconfig_exits_with_3(run: Run, words: list[str], tmp_path: Path) -> None:
    done = run(*words, "--kubeconfig", str(tmp_path / "nothing"))
    assert done.code == 3
    assert "cannot be used" in done.err and str(tmp_path / "nothing") in done.err
    assert "name another one: --kubeconfig FILE" in done.err


@pytest.mark.parametrize("words", EVERY, ids=ids)
def test_a_missing_context_exits_with_3(run: Run, words: list[str]) -> None:
    done = run(*words, "--context", "nowhere")
    assert done.code == 3
    assert done.err == (
        "error: the kubeconfig has no context 'nowhere'\n"
        "  list the contexts: kubectl config get-contexts\n"
    )


def test_the_context_sets_the_namespace_and_n_overrides_it(
    run: Run, server: ApiServer, kubeconfig: Path
) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = "lab"
    kubeconfig.write_text(yaml.safe_dump(config))
    assert "No exposures, responses or access logs found in namespace lab" in run("get").err
    assert (
        "No exposures, responses or access logs found in namespace default"
        in run("get", "-n", "default").err
    )


def test_every_request_has_the_impersonated_user(run: Run, server: ApiServer) -> None:
    run("get", "--as", "jane", "--as-group", "dev", "--as-group", "ops")
    for request in server.requests:
        assert request.headers["impersonate-user"] == ["jane"]
        assert request.headers["impersonate-group"] == ["dev", "ops"]


def test_a_403_names_the_impersonated_user(run: Run, server: ApiServer) -> None:
    server.fail("GET", ".", 403)
    assert "--as jane" in run("get", "--as", "jane").err


def test_an_unexpected_error_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubectl_istio_udp.state.existing.read_state", lambda *_, **__: 1 / 0)
    done = run("get")
    assert done.code == 3
    assert done.err.startswith("error: unexpected ZeroDivisionError: division by zero\n")
    assert "run the command with -v" in done.err


@pytest.mark.parametrize(("flags", "shown"), [([], False), (["-v"], True)])
def test_only_verbose_shows_a_traceback(tmp_path: Path, flags: list[str], shown: bool) -> None:
    code = "from kubectl_istio_udp.cli.main import main; main()"
    command = [sys.executable, "-c", code, "get", "--kubeconfig", str(tmp_path / "nothing")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert ("Traceback" in done.stderr) == shown
    assert str(tmp_path / "nothing") in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_an_interruption_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("kubectl_istio_udp.state.existing.read_state", interrupted)
    done = run("get")
    assert (done.code, done.err) == (130, "error: interrupted\n")


def test_sigterm_interrupts_the_command(run: Run, server: ApiServer) -> None:
    """SIGTERM rolls back what was written."""
    before = server.state()

    def terminate(request: Request) -> None:
        if request.method == "PATCH" and "envoyfilters" in request.path:
            os.kill(os.getpid(), signal.SIGTERM)

    server.seen = terminate
    done = run("expose", "coredns", "-p", "5300:53")
    assert done.code == 130
    assert "everything that this run wrote was undone" in done.err
    assert server.state() == before


def test_accepts_wait_as_kubectl_writes_it(run: Run, server: ApiServer, fakes: Fakes) -> None:
    assert run("expose", "coredns", "-p", "5300:53", "--wait=false").code == 0
    assert not [command for command in fakes.commands if "config_dump" in command[-1]]
    assert run("expose", "coredns", "-p", "5300:53", "--wait=true").code == 0
    assert [command for command in fakes.commands if "config_dump" in command[-1]]


def test_runs_with_the_words_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl-istio_udp", "version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kubectl-istio-udp {__version__}\n"


def test_importing_the_entry_point_imports_no_client() -> None:
    """Only verbs that need the cluster import the client, because start-up delays every command."""
    code = (
        "import sys; import kubectl_istio_udp.cli.main; "
        "print([m for m in ('kubernetes', 'yaml', 'urllib3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "words",
    [
        ["direct", "coredns", "-n", "a/../b"],
        ["verify", "--all", "-n", "a?b"],
        ["direct", "coredns", "--tool-pod", "a/b/c"],
        ["expose", "coredns", "-n", "A"],
    ],
)
def test_names_that_would_change_the_path_are_refused(
    run: Run, server: ApiServer, words: list[str]
) -> None:
    assert run(*words).code == 2


def test_verbose_shows_the_traceback_and_keeps_the_exit_code(run: Run) -> None:
    done = run("get", "--context", "nowhere", "-v")
    assert done.code == 3
    assert "Traceback" in done.err
    assert done.err.rstrip().splitlines()[-1].startswith("  list the contexts")


def test_no_arguments_are_not_those_of_the_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl-istio_udp", "version"])
    assert "Usage:" in run().out + run().err


def test_a_closed_pipe_is_not_an_error() -> None:
    """kubectl istio-udp samples print | head -1"""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from kubectl_istio_udp.cli.main import main; main()"]
    done = subprocess.run(
        [*command, "samples", "print"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert "Error" not in done.stderr
