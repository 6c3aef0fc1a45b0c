"""Write the pages that are made from the code.

docs/commands.md and README.md's overview from the commands' own --help, docs/load-balancers.md from
the table of load balancers, docs/checks.md from the table of checks.

python docs/generate.py          write all
python docs/generate.py --check  exit 1 where either has drifted
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kubectl_istio_udp.checks import accesslog, expose, response
from kubectl_istio_udp.checks.catalog import (
    CHECKS,
    CODES_OF_VALIDATE,
    Check,
    Severity,
    Surface,
)
from kubectl_istio_udp.checks.findings import FINDING_KEYS
from kubectl_istio_udp.checks.rules import Rule, codes_of
from kubectl_istio_udp.cli.main import cli
from kubectl_istio_udp.plan.loadbalancer import COPIED_FIELDS, LEFT_OUT_FIELDS, PROVIDERS, Why

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
BEGIN, END = "<!-- overview: begin -->\n", "<!-- overview: end -->\n"


def help_of(command: click.Command, name: str) -> str:
    """The text that `NAME --help` prints, at a fixed width."""
    context = click.Context(
        command,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return command.get_help(context).rstrip() + "\n"


def walk(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """A command and all below it, with the words that call each."""
    found = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            if below is not None:
                found += walk(below, f"{name} {verb}")
    return found


def block(text: str) -> str:
    """A code block."""
    return f"```\n{text}```\n"


def commands_page() -> str:
    """docs/commands.md."""
    parts = [
        "# Commands\n\nGenerated from `--help` by `python docs/generate.py`; a test checks this.\n"
    ]
    for name, command in walk(cli, "kubectl istio-udp"):
        parts.append(f"## {name}\n\n{block(help_of(command, name))}")
    return "\n".join(parts)


def load_balancers_page() -> str:
    """docs/load-balancers.md."""
    lines = [
        "# What the companion Service takes over",
        "",
        "Generated from `kubectl_istio_udp/plan/loadbalancer.py` by `python docs/generate.py`; a",
        "test checks this.",
        "",
        "The companion creates a separate load balancer in front of the same gateway pods. It gets",
        "the annotations that restrict who may reach the gateway. It does not get annotations that",
        "name one load balancer, address or port: cloud controllers would use the gateway's load",
        "balancer for the companion, change it, and delete it with the companion. Annotations that",
        "are in no table are left out, and `expose` warns (U216). `...` stands for any ending.",
        "",
        "`expose` refuses if the load balancer would never be created (U133): the annotations",
        "belong to one cloud, its load balancers carry no UDP, and no class names another",
        "controller. It warns (U217) if the annotations belong to several clouds, because it is",
        "then not certain which one creates the load balancer.",
        "",
        "With `--gateway-service patch`, a UDP port may stop the gateway's own load balancer from",
        "following changes. `expose` refuses this (U134) if the cloud carries no UDP. It also",
        "refuses it beside TCP ports with Kubernetes' AWS provider, and with GKE, unless the",
        "Service has a class or `cloud.google.com/l4-rbs: enabled`.",
        "",
        "| reason | what it means |",
        "|---|---|",
        *(f"| {word} | {text} |" for word, _, text in (w.value.partition(": ") for w in Why)),
        "",
        "## Fields",
        "",
        "| field | decision | reason |",
        "|---|---|---|",
        "| type | copied | ClusterIP if the gateway has no Service |",
        *(f"| {name} | copied | {why} |" for name, why in COPIED_FIELDS.items()),
        *(f"| {name} | left out | {why} |" for name, why in LEFT_OUT_FIELDS.items()),
        "| type LoadBalancer if the cloud carries no UDP | refused | U133, U134 |",
        "| labels | copied | labels select pools; labels of Istio and of tools are left out |",
    ]
    for provider in PROVIDERS:
        lines += ["", f"## {provider.name}", "", f"Source: <{provider.source}>"]
        if provider.no_udp:
            lines += ["", f"{provider.no_udp}: `expose` refuses (U133)."]
        lines += ["", "| annotation | decision | reason |", "|---|---|---|"]
        for rule in sorted(provider.rules, key=lambda rule: rule.prefix):
            ending = "..." if rule.fits(rule.prefix + "x") else ""
            reason = rule.why.value.partition(":")[0]
            lines.append(f"| `{rule.prefix}{ending}` | {rule.decision.value} | {reason} |")
    return "\n".join(lines) + "\n"


RULES: dict[str, Sequence[Rule[Any, Any]]] = {
    "expose": expose.RULES,
    "direct response": response.RULES,
    "access-log": accesslog.RULES,
}


def checks_page() -> str:
    """docs/checks.md."""
    codes = {name: codes_of(rules) for name, rules in RULES.items()}
    codes["validate"] = CODES_OF_VALIDATE
    lines = [
        "# Checks",
        "",
        "Generated from `kubectl_istio_udp/checks/catalog.py` by `python docs/generate.py`; a test",
        "checks this.",
        "",
        "These commands run these checks before they write; `validate` checks files:",
        "",
        *(f"- `{name}`: {', '.join(sorted(found))}" for name, found in codes.items()),
        "",
        "An *error* stops the command before it writes anything; a *warning* or *info* is printed,",
        "and the command continues. A code never changes its meaning.",
        "",
        "The controller runs the checks of `expose`, and acts on errors only. If deleting another",
        "exposure may fix the error, the controller waits for that: "
        f"{', '.join(code for code, check in CHECKS.items() if check.may_pass)}.",
        "",
        "With `-o json` or `-o yaml`, `expose`, `direct response` and `access-log` print each",
        "finding (also errors) to stderr, as a JSON object in one line. stdout has the manifests.",
        "`validate -o json` lists findings with `file`, `line` and `column`. The controller's log",
        "has the findings of a refused request in the field `findings`. A finding has these keys:",
        "",
        "| key | value |",
        "|---|---|",
        *(f"| `{key}` | {text} |" for key, text in FINDING_KEYS.items()),
        "",
        "Below, names in braces are keys of `values`; `{object}` is the object.",
    ]
    for check in CHECKS.values():
        lines += ["", f"## {check.title}", *wrapped(check.meaning), "", *texts_of(check)]
    return "\n".join(lines) + "\n"


def wrapped(text: str) -> list[str]:
    """The lines of a paragraph."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def texts_of(check: Check) -> list[str]:
    """What findings of a code say, on each surface, without repetitions."""
    texts = check.texts.values()
    found = [f"- Message: {text.message}" for text in texts]
    for name, surface in (
        ("Remedy on the command line", Surface.COMMAND_LINE),
        ("Remedy in annotations", Surface.ANNOTATION),
        ("Remedy in a Gateway", Surface.LISTENER),
    ):
        found += [f"- {name}: {text.remedy.on(surface)}" for text in texts]
    if check.severity is Severity.ERROR and check.code in codes_of(expose.RULES):
        found += [f"- Event: {text.event or 'the message'}" for text in texts]
    reads = {
        field
        for rules in RULES.values()
        for r in rules
        if check.code in r.codes
        for field in r.reads
    }
    found.append(f"- Reads: {', '.join(sorted(reads))}")
    return [line for line in dict.fromkeys(found) if not line.endswith(": ")]


def readme_page(current: str) -> str:
    """README.md with its overview made anew."""
    before, _, rest = current.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + block(help_of(cli, "kubectl istio-udp")) + END + after


def main() -> int:
    """Write or check; 1 where a page has drifted."""
    readme = ROOT / "README.md"
    pages = {
        ROOT / "docs" / "commands.md": commands_page(),
        ROOT / "docs" / "checks.md": checks_page(),
        ROOT / "docs" / "load-balancers.md": load_balancers_page(),
        readme: readme_page(readme.read_text()),
    }
    drifted = [
        path for path, text in pages.items() if not path.exists() or path.read_text() != text
    ]
    if "--check" in sys.argv:
        for path in drifted:
            print(f"{path.relative_to(ROOT)} has drifted: python docs/generate.py")
        return 1 if drifted else 0
    for path in drifted:
        path.write_text(pages[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
