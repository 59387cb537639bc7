# Two commands are all that a fresh machine needs: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What users install: without torch, and without what tests need.
LIGHT := .venv-light
LIGHT_INSTALLED := $(LIGHT)/.installed
CLEAN := build/clean
CLIENTS := .venv-clients
CLIENTS_INSTALLED := $(CLIENTS)/.installed

.PHONY: setup demo test test-quick clients clients-table fuzz lint serve docs dist dist-files sbom audit clean

setup: $(INSTALLED)

# Runs again only when the dependencies change.
$(INSTALLED): pyproject.toml
	@$(call environment,$(VENV))
	@echo "Installing into $(VENV) (torch is large: some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(LIGHT_INSTALLED): pyproject.toml
	@$(call environment,$(LIGHT))
	@echo "Installing into $(LIGHT) (half a minute) ..."
	@$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# A virtual environment in a folder, where there is none.
define environment
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || \
  { echo "python3 cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
endef

demo: $(LIGHT_INSTALLED)
	@$(LIGHT)/bin/rh-connector demo

# A process grows to 9 GB: no more than memory holds, four at most.
PROCESSES = $(shell $(PYTHON) -c 'import os; memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"); \
  print(max(1, min(4, memory // 10**10)))')

# A process a core. Threads of one would otherwise spin while those of another compute.
TESTS = OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto --maxprocesses $(PROCESSES) --dist loadgroup

test: $(INSTALLED)
	@$(TESTS)

# While you work: without what starts search servers, exports models, runs the benchmark or takes seconds.
test-quick: $(INSTALLED)
	@$(TESTS) -m "not nodes and not export and not bench and not slow"

# Clients of others live in an environment of their own, and call a service of this one.
$(CLIENTS_INSTALLED): pyproject.toml
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	@echo "Installing into $(CLIENTS) ..."
	@$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[clients]'
	@touch $@

AGAINST := OMP_WAIT_POLICY=PASSIVE RH_TEST_SERVICE_PYTHON=$(CURDIR)/$(BIN)/python $(CLIENTS)/bin/python

# Some clients leave their sockets open.
LEAVE_OPEN := -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning

clients: $(INSTALLED) $(CLIENTS_INSTALLED)
	@$(AGAINST) -m pytest $(LEAVE_OPEN) -m "not nodes" tests/clients tests/studies/test_http_fuzz.py

# The clients' rows of docs/http-api.md: those of both environments.
clients-table: $(INSTALLED) $(CLIENTS_INSTALLED)
	@$(AGAINST) -m tests.clients -m "not nodes"
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.clients

# Ten minutes of requests made at random, at a service that runs: make fuzz URL=http://127.0.0.1:8080
URL := http://127.0.0.1:8080
fuzz: $(INSTALLED) $(CLIENTS_INSTALLED)
	@$(BIN)/python -m connector.studies.http_fuzz $(URL) --program $(CLIENTS)/bin/schemathesis

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

serve: $(INSTALLED)
	@$(BIN)/rh-connector serve

# docs/results.md and docs/performance.md from the committed reports, docs/reference.md from the program itself.
docs: $(INSTALLED)
	@$(BIN)/python -m connector.studies.results_page docs/results docs/results.md
	@$(BIN)/python -m connector.studies.results_page docs/results/every-query docs/results-every-query.md
	@$(BIN)/python -m connector.studies.performance_page docs/performance docs/results docs/performance.md
	@$(BIN)/python -m connector.studies.reference_page > docs/reference.md

# Source archive and wheel, the wheel built from the archive, and a look at what they hold.
dist-files: $(INSTALLED)
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist
	@$(BIN)/python -m connector.studies.release.distribution dist

# A release: see docs/engineering/releasing.md. The wheel runs the demo where nothing else of the repository is.
# Not even pip: what lies there is what the bill of materials tells, and what is audited.
dist: dist-files
	@rm -rf $(CLEAN)
	@$(PYTHON) -m venv --without-pip $(CLEAN)
	@echo "Installing the wheel into $(CLEAN) ..."
	@$(BIN)/python -m pip --python $(CLEAN)/bin/python install --quiet --disable-pip-version-check dist/*.whl
	@cd $(CLEAN) && bin/rh-connector --config /dev/null demo
	@$(MAKE) --no-print-directory sbom

# What is installed with a release, in CycloneDX.
SBOM := build/rh-connector.cdx.json
sbom: $(INSTALLED)
	@$(call released)
	@$(BIN)/python -m connector.studies.release.bill_of_materials $(CLEAN)/bin/python $(SBOM)
	@echo "Written: $(SBOM)"

# Known vulnerabilities of the same packages; asks a service on the network. --strict: a package that the service does
# not know was not looked at, and that is no pass.
AUDIT_FLAGS :=
audit: $(INSTALLED)
	@$(call released)
	@$(BIN)/python -m pip --python $(CLEAN)/bin/python freeze --exclude rh-connector > $(CLEAN)/audited.txt
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off $(AUDIT_FLAGS) -r $(CLEAN)/audited.txt

define released
test -x $(CLEAN)/bin/python || { echo "$(CLEAN) is not there; make it with: make dist" >&2; exit 1; }
endef

clean:
	rm -rf $(VENV) $(LIGHT) $(CLIENTS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
