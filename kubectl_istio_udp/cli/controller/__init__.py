"""`controller`: the controller itself, and putting it into a cluster; a file for each verb."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli.controller import install, run, status, uninstall


@click.group("controller")
def command() -> None:
    """Keep what Services' annotations declare exposed, from within the cluster.

    Services annotated kubectl-istio-udp/expose: "5300:53" are exposed as `expose` would, kept so
    whatever happens to pods, gateways and objects, and taken away when the annotation goes. Lists
    of endpoints that `expose` wrote are kept fresh.
    """


for _verb in (run, install, status, uninstall):
    command.add_command(_verb.command)
