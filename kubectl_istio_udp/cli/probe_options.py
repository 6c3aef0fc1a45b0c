"""Options of `verify` and `direct query`: what to send, from where, and how to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.verify.options import ProbeOptions


def probe_options(command: Callable[..., Any]) -> Any:
    """--query, --probe and the other options of probes, as one `probe_settings`."""

    def collect(**values: Any) -> Any:
        probe_values = {each.name: values.pop(each.name) for each in fields(ProbeOptions)}
        return command(probe_settings=ProbeOptions(**probe_values), **values)

    return options.with_options(collect, command, _PROBE_OPTIONS)


_PROBE_OPTIONS: tuple[options.Decorator, ...] = (
    click.option(
        "--query",
        metavar="'NAME [TYPE]'",
        help="DNS name to query.  [default: the Service's annotation kubectl-istio-udp/query]",
    ),
    click.option(
        "--probe",
        default="dns",
        show_default=True,
        metavar="dns|text:TEXT|hex:BYTES",
        help="What to send. For text and hex, any datagram counts as an answer.",
    ),
    click.option(
        "--one-way",
        is_flag=True,
        help="For protocols that never answer (syslog, StatsD, NetFlow): read the pods' UDP "
        "counters to see whether the datagrams arrive.",
    ),
    click.option(
        "--count",
        type=click.IntRange(min=1, max=100),
        default=1,
        show_default=True,
        help="Number of probes to send to each hop, each from another port.",
    ),
    click.option(
        "--timeout",
        type=options.DURATION,
        default="2s",
        show_default=True,
        help="How long to wait for each answer, in whole seconds.",
    ),
    click.option(
        "--tool-pod", metavar="[NAMESPACE/]NAME", help="Network-tool pod to send probes from."
    ),
    click.option(
        "--create-tool",
        is_flag=True,
        help="Create a network-tool pod for this run, and delete it afterwards.",
    ),
    click.option("--tool-image", help="Image of the pod that --create-tool creates."),
    options.output_option("table", "json", "yaml", default="table"),
)
