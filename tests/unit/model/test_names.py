from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.kinds import Kind

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
# Parts that can be put together in several ways.
TANGLED = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map("-".join)
PAIR = st.tuples(LABEL, LABEL) | st.tuples(TANGLED, TANGLED)


def test_unambiguous_names_have_no_hash() -> None:
    assert names.object_name("default", "coredns") == "udp-default-coredns"


@pytest.mark.parametrize(
    ("namespace", "name"), [("kube-system", "dns"), ("default", "x" * 60), ("n" * 63, "s" * 63)]
)
def test_ambiguous_or_long_names_have_a_hash(namespace: str, name: str) -> None:
    found = names.object_name(namespace, name)
    plain = f"udp-{namespace}-{name}"
    kept, _, digest = found.rpartition("-")
    assert plain.startswith(kept)
    assert len(digest) == 8 and int(digest, 16) >= 0


def test_the_longest_plain_name_stays() -> None:
    name = "s" * (63 - len("udp-default-"))
    assert names.object_name("default", name) == f"udp-default-{name}"
    assert names.object_name("default", name + "s") != f"udp-default-{name}s"


def test_hashes_stay_the_same_in_every_version() -> None:
    assert names.object_name("kube-system", "dns") == "udp-kube-system-dns-bfd0be71"


@given(PAIR)
def test_is_a_dns_label_and_stable(pair: tuple[str, ...]) -> None:
    found = names.object_name(*pair)
    assert names.check_dns_label(found, "object") == found
    assert names.object_name(*pair) == found


@given(PAIR, PAIR)
def test_two_exposures_never_share_a_name(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    same = names.object_name(*one) == names.object_name(*other)
    assert same == (one == other)


@given(PAIR, PAIR)
def test_two_exposures_never_share_a_host_or_a_manager(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    for function in (names.guessable_host, names.service_manager):
        assert (function(*one) == function(*other)) == (one == other)


@given(PAIR)
def test_names_identify_the_exposure_unless_truncated(pair: tuple[str, ...]) -> None:
    name = names.object_name(*pair)
    whole = len(f"udp-{pair[0]}-{pair[1]}") <= 54
    assert names.exposure_of_name(name) in ([pair] if whole else [pair, None])
    assert names.exposure_of_manager(names.service_manager(*pair)) == names.exposure_of_name(name)


@pytest.mark.parametrize("name", ["", "udp-", "udp-a", "udp--a", "udp-a-", "a-b-c", "udp-a-b-0123"])
def test_other_names_identify_no_exposure(name: str) -> None:
    assert names.exposure_of_name(name) in (None, ("a", "b-0123"))


@pytest.mark.parametrize("manager", ["", "kubectl-istio-udp", "kubectl-istio-udp/x", "helm"])
def test_other_field_managers_identify_no_exposure(manager: str) -> None:
    assert names.exposure_of_manager(manager) is None


@given(PAIR)
def test_field_managers_fit_the_api(pair: tuple[str, ...]) -> None:
    assert len(names.service_manager(*pair)) <= 128


@pytest.mark.parametrize("text", ["a", "0", "a-b", "a" * 63])
def test_accepts_a_dns_label(text: str) -> None:
    assert names.check_dns_label(text, "Service") == text


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "a b", "é", "a" * 64, "a\n", "../x"]
)
def test_rejects_an_invalid_dns_label(text: str) -> None:
    with pytest.raises(UsageError, match=r"^Service .* is not a valid Kubernetes name"):
        names.check_dns_label(text, "Service")


@pytest.mark.parametrize("text", ["a", "a.b-c.0", ".".join(["a" * 63] * 3)])
def test_accepts_a_dns_subdomain(text: str) -> None:
    assert names.check_dns_subdomain(text, "pod") == text


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", "a/b", "A.b", ".".join(["a" * 63] * 4)])
def test_rejects_an_invalid_dns_subdomain(text: str) -> None:
    with pytest.raises(UsageError, match=r"^pod "):
        names.check_dns_subdomain(text, "pod")


_OURS = f"{names.MANAGED_BY_LABEL}=kubectl-istio-udp,kubectl-istio-udp/namespace"


@pytest.mark.parametrize(
    ("arguments", "expected"), [((), _OURS), (("default",), f"{_OURS}=default")]
)
def test_label_selectors(arguments: tuple[str, ...], expected: str) -> None:
    assert names.label_selector(*arguments) == expected


@pytest.mark.parametrize("kind", list(Kind))
def test_labels_match_the_selector(kind: Kind) -> None:
    wanted = dict(pair.split("=") for pair in names.label_selector("default").split(","))
    labels = names.labels(kind, "default", "dns")
    assert labels == {**wanted, f"kubectl-istio-udp/{kind.value}": "dns"}
    assert names.owner_of(labels) == (kind, "default", "dns")


@pytest.mark.parametrize(
    "lost", [names.MANAGED_BY_LABEL, names.NAMESPACE_LABEL, Kind.EXPOSURE.label]
)
def test_other_labels_name_no_owner(lost: str) -> None:
    labels = names.labels(Kind.EXPOSURE, "default", "dns")
    assert names.owner_of({key: value for key, value in labels.items() if key != lost}) is None


def test_names_that_look_like_a_hash_are_distinguished() -> None:
    hashed = names.object_name("a-b", "c")
    assert names.object_name("a", hashed.removeprefix("udp-a-")) != hashed
