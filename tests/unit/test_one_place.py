"""Each decision that the command line and the controller share is made in one place.

Whoever calls the building blocks of such a decision elsewhere begins a second copy of it, which
will drift. docs/rooms.md has the table of decisions for people.
"""

import ast
import re
from pathlib import Path

import pytest

import kubectl_istio_udp

PACKAGE = Path(kubectl_istio_udp.__file__).parent

# The call that makes a decision, and the only files that may make it.
ONLY_IN = {
    # What is taken of a gateway, and by a namespace.
    "counted": {"state/occupancy.py"},
    "used_by": {"state/occupancy.py", "state/caches.py"},
    # What is wanted, checked and written, for every command that writes.
    "plan": {"apply/exposing.py", "controller/deciding.py"},
    "check_expose": {"apply/exposing.py"},
    "expose_errors": {"apply/reserving.py", "controller/reserving.py"},
    "Transaction": {"apply/pipeline.py", "apply/transaction.py"},
    "apply_manifests": {"apply/samples.py", "apply/controller.py"},
    "apply_decision": {
        *("apply/exposing.py", "apply/exposing_routes.py"),
        *("apply/responding.py", "apply/access_logging.py"),
    },
    "smallest_file_limit": {"apply/controller.py"},
    "controller_namespace": {
        *("apply/controller.py", "state/gatewaynamespaces.py"),
        # Names the namespace where the controller is, if status looks in another one.
        "cli/run/controller/status.py",
    },
    "plan_response": {"apply/responding.py"},
    "plan_access_log": {"apply/access_logging.py"},
    # How many sessions an exposure gets.
    "automatic_sessions": {"plan/sessions.py"},
    "sessions_for_rate": {"plan/exposure.py"},
    # Which gateway, and what routes and Gateways get.
    "choose_gateway": {"controller/deciding.py", "state/gateways.py", "state/from_manifests.py"},
    "plan_routes": {"controller/routes.py"},
    "with_kept_shares": {"plan/routes.py"},
    "attach": {"state/udproutes.py", "controller/reporting.py"},
    "is_copy_of": {"controller/mirroring.py"},
    "copied_parents": {"state/apigateways.py"},
    # Whether a gateway still has what was decided, once that is reserved.
    "fitting": {"apply/reserving.py", "controller/reserving.py"},
    "reserved": {"apply/reserving.py"},
    "read_again": {"apply/reserving.py"},
    # What is created, changed and removed, and how one object is written.
    "change_set": {
        *("apply/exposing.py", "apply/responding.py", "apply/access_logging.py"),
        *("apply/deletion_order.py", "controller/removing.py"),
    },
    # apply/transaction.py hands it to a thread.
    "apply_write": {"controller/writing.py"},
    # The order of a removal; each loop hands in how a step is done.
    "delete_in_order": {"apply/deletion_order.py", "controller/removing.py"},
    "read_reservation": {"state/occupancy.py", "apply/reserving.py", "state/leftovers.py"},
}


def calls(source: str) -> set[str]:
    """The names of the functions that a file calls: `f`, and `C.f` where C is capitalized."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        func = node.func if isinstance(node, ast.Call) else None
        if isinstance(func, ast.Name):
            found.add(func.id)
        elif isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
            found.add(f"{func.value.id}.{func.attr}")
    return found


@pytest.fixture(scope="session")
def callers() -> dict[str, set[str]]:
    """The files that call each function, by the function's name."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in calls(path.read_text()):
            found.setdefault(name, set()).add(path.relative_to(PACKAGE).as_posix())
    return found


def test_the_table_of_decisions_names_files_and_functions_that_exist() -> None:
    page = (PACKAGE.parent / "docs" / "rooms.md").read_text()
    table = page[page.index("| decision | where |") :].split("\n\n")[0]
    named = [re.findall(r"`([^`]+)`", row.split("|")[2]) for row in table.splitlines()[2:]]
    assert all(named)
    for names in named:
        room = ""
        sources = []
        for name in (name for name in names if name.endswith(".py")):
            room = name.rpartition("/")[0] or room
            sources.append((PACKAGE / room / name.rpartition("/")[2]).read_text())
        for name in (name for name in names if not name.endswith(".py")):
            assert any(re.search(rf"(def|class) {name.split('.')[-1]}\b", s) for s in sources), name


@pytest.mark.parametrize("function", ONLY_IN)
def test_a_shared_decision_is_made_in_its_one_place(
    function: str, callers: dict[str, set[str]]
) -> None:
    assert callers[function] == ONLY_IN[function]
