"""Connections to the API server of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions
from kubectl_istio_udp.kube.retrying import Retries
from kubectl_istio_udp.model.waits import Waits
from tests.support.waits import QUICK


def quick_retries(**options: Any) -> Retries:
    """Retries with short waits; `options` are its fields."""
    return Retries(first_wait=QUICK.first_retry, longest_wait=QUICK.longest_retry, **options)


def connected(kubeconfig: Path, waits: Waits = QUICK, **options: Any) -> Api:
    """The cluster of a kubeconfig.

    Args:
        kubeconfig: the file.
        waits: how long to wait, and for what.
        options: fields of ConnectionOptions.
    """
    usual = {"retries": quick_retries(), **options}
    return Api.connect(ConnectionOptions(kubeconfig=str(kubeconfig), waits=waits, **usual))
