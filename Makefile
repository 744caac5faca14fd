# make help says what there is.
SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python
PORT ?= 8081

# The first Python that is new enough; PYTHON=… takes another.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif

# A process that may not keep what it compiled starts in twice the time; the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run run-chatglm first-server first-model install test test-all test-langchain test-litellm test-openwebui test-openapi test-agents test-connect soak chaos screenshots bench bench-quick bench-check docs dist zipapp release lint format lock

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 20
	@echo
	@echo '  PORT=8081                      port of make run and run-chatglm'
	@echo '  LLAMA_API=http://host:port     make run in front of this server, instead of one of its own'
	@echo '  FLAGS="--metrics …"            more flags for slotproxy (make run) or pytest (make test)'
	@echo '  PYTHON=python3.12              the Python to make .venv with (3.11 or newer)'

# The first time, the server is built while pip installs and the model is fetched.
run: ## slotproxy and a llama.cpp server with a small real model (built and fetched once, two minutes)
	@$(MAKE) --no-print-directory -j3 $(VENV)/runs $(if $(LLAMA_API),,first-server first-model)
	@$(RUN) -m tools.run --port $(PORT) $(if $(LLAMA_API),--llama-api '$(LLAMA_API)') $(FLAGS)

run-chatglm: $(VENV)/installed ## slotproxy with the ChatGLM model it brings along (chatglm_cpp is built once, some minutes)
	@$(RUN) -m tools.run --chatglm --port $(PORT) $(FLAGS)

install: $(VENV)/installed ## make .venv with everything, as locked in requirements/

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer found; name one with PYTHON=…' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

first-server: | $(VENV)/bin/python
	@$(RUN) -m tools.servers build llama-2023 >/dev/null

# Without a network, tools.run says what it uses instead.
first-model: $(VENV)/runs
	-@$(RUN) -m tools.smollm2 fetch >/dev/null

# Setuptools warns of editable installations, which are what a checkout wants.
PIP = PYTHONWARNINGS=ignore $(RUN) -m pip --disable-pip-version-check install --quiet

# A third of what developers need. Modules are compiled when they are first imported.
$(VENV)/runs: requirements/run.txt setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) --no-compile --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed: requirements/dev.txt setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/runs

# Each file's tests in one of several processes: much of them is waiting for servers.
PYTEST = $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: export SLOTPROXY_TEST_ALL = 0
test: $(VENV)/installed ## what takes three minutes, with the server of 2023 and chatglm_cpp (built once, some minutes)
	@$(RUN) -m tools.servers build llama-2023 >/dev/null
	@-$(RUN) -m tools.smollm2 fetch >/dev/null
	@$(RUN) -m tools.chatglm install
	$(PYTEST) -m 'not slow' --ignore tests/browser $(FLAGS)

test-all: export SLOTPROXY_TEST_ALL = 1
test-all: $(VENV)/installed ## every test, on a llama-server of 2026 (built once, about ten minutes), PostgreSQL and in a browser too; with POWERINFER_SERVER, on that program
	@$(RUN) -m tools.servers build llama-2023 llama-2026 >/dev/null
	@$(RUN) -m tools.smollm2 fetch >/dev/null
	@$(RUN) -m tools.upstream_suite fetch >/dev/null
	@$(RUN) -m tools.chatglm install
	@$(RUN) -m tools.llama_cpp_python build >/dev/null
	@$(RUN) -m tools.browser
	@$(RUN) -m tools.oidc_provider
	@$(RUN) -m tools.mcp_conformance install
	@$(RUN) -m tools.open_responses fetch
	$(PYTEST) -m 'not alone' $(FLAGS)
	$(RUN) -m pytest -m alone tests/browser tests/integration

SOAK ?= 3600
soak: $(VENV)/installed ## an hour of mixed traffic before servers that die, reported (SOAK=600: ten minutes)
	@$(RUN) -m tools.servers build llama-2023 llama-2026 >/dev/null
	$(RUN) -m tests.soak --seconds $(SOAK) $(FLAGS)

CHAOS ?= 600
chaos: $(VENV)/installed ## ten minutes of trouble for four gateways on one Redis, reported (CHAOS=120: two)
	$(RUN) -m tests.soak --gateways 4 --stubs 16 --seconds $(CHAOS) $(FLAGS)

screenshots: $(VENV)/installed ## pictures of the main pages into docs/images/
	@$(RUN) -m tools.servers build llama-2023 >/dev/null
	@$(RUN) -m tools.browser
	$(RUN) -m tools.screenshots

bench: $(VENV)/installed ## measure slotproxy and others side by side, into docs/performance.md (a quarter of an hour)
	@$(RUN) -m benchmarks $(FLAGS)

bench-quick: $(VENV)/installed ## slotproxy, nginx and a naive proxy, printed (two minutes)
	@$(RUN) -m benchmarks --quick $(FLAGS)

bench-check: $(VENV)/installed ## that the benchmark runs, and loses no answer
	@$(RUN) -m benchmarks --check

# In an environment of its own: LangChain's tests bring plugins for pytest that ours do without.
test-langchain: $(VENV)/installed ## LangChain's standard tests of its OpenAI, Anthropic and Ollama models
	@$(RUN) -m tools.servers build llama-2023 llama-2026 >/dev/null
	$(PYTHON) -m venv build/langchain-venv
	build/langchain-venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/langchain.in -e .
	build/langchain-venv/bin/python -m pytest tests/integration/test_langchain.py -W default \
		-o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=session \
		-o asyncio_default_test_loop_scope=session $(FLAGS)

# In an environment of its own: LiteLLM pins a hundred packages.
test-litellm: $(VENV)/installed ## LiteLLM's own client makes, lists and deletes API keys
	$(PYTHON) -m venv build/litellm-venv
	build/litellm-venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/litellm.in
	@$(RUN) -m pytest tests/integration/test_keys.py $(FLAGS)

# In an environment of its own: Open WebUI brings 7 GB, torch among them.
test-openwebui: $(VENV)/installed ## Open WebUI itself in front: five people of one key stand apart
	$(PYTHON) -m venv build/openwebui-venv
	build/openwebui-venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/openwebui.in
	@$(RUN) -m pytest tests/integration/test_openwebui.py $(FLAGS)

# In an environment of its own: schemathesis brings a plugin for pytest.
test-openapi: $(VENV)/installed ## schemathesis: requests made from /openapi.json, every answer checked (six minutes)
	@$(RUN) -m tools.servers build llama-2023 >/dev/null
	$(PYTHON) -m venv build/openapi-venv
	build/openapi-venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/openapi.in
	@$(RUN) -m pytest tests/integration/test_openapi.py $(FLAGS)

test-agents: $(VENV)/installed ## Codex and Claude Code, the real programs (640 MB, from npm), with tools over several turns
	@$(RUN) -m tools.coding_agents
	@$(RUN) -m pytest tests/integration/test_coding_agents.py $(FLAGS)

# In environments of their own: aider pins a hundred packages.
test-connect: $(VENV)/installed ## aider, LangChain and llm, by the texts of the page Connect
	for name in connect aider; do \
		$(PYTHON) -m venv build/$$name-venv && build/$$name-venv/bin/python -m pip \
			--disable-pip-version-check install --quiet -r requirements/$$name.in || exit 1; \
	done
	@$(RUN) -m pytest tests/integration/test_connect.py $(FLAGS)

docs: $(VENV)/installed ## the documentation as a site in build/docs; a warning is an error
	@$(RUN) -m tools.model_families
	$(BUILD_DOCS)

# In an environment of its own: to build needs a tenth of what developers need.
DIST = build/dist-venv
$(DIST)/ready: requirements/dist.txt
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/dist.txt
	@touch $@

dist: $(DIST)/ready ## wheel and source archive into dist/, checked
	@rm -rf dist/slotproxy-*
	$(DIST)/bin/python -m build --no-isolation
	$(DIST)/bin/python -m twine check --strict dist/slotproxy-*

# The extra knowledge brings pandas, numpy and lxml, which are nine tenths of the larger file.
zipapp: dist ## slotproxy in one file that needs only Python, into dist/ (EXTRAS=knowledge: 125 MB instead of 10)
	$(DIST)/bin/shiv --quiet --extend-pythonpath --reproducible --compressed --python '/usr/bin/env python3' \
		--console-script slotproxy --output-file dist/slotproxy.pyz \
		"$$(ls $(CURDIR)/dist/slotproxy-*.whl)$(if $(EXTRAS),[$(EXTRAS)])"
	@ls -sh dist/slotproxy.pyz

# Where docker, podman or buildah runs, an image too.
release: zipapp ## all files of a version into dist/: wheel, sources, one file, image, notes, SHA256SUMS
	$(DIST)/bin/python -m tools.release

lint: $(VENV)/installed ## ruff, mypy, oxlint, and the documentation built with warnings as errors
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/oxlint --deny-warnings proxy/web/static
	$(RUN) -m tools.model_families --check
	$(BUILD_DOCS)

format: $(VENV)/installed ## put the code into ruff's form
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# mkdocs-material prints a notice about a later mkdocs, which this keeps quiet.
BUILD_DOCS = NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

# One solution for all platforms and Pythons from 3.11 on, with the hash of every file.
LOCK = $(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock'
lock: $(VENV)/installed ## solve the dependencies anew into requirements/ (UPGRADE=1: newest versions)
	$(RUN) -m pip --disable-pip-version-check install --quiet 'uv>=0.5'
	$(LOCK) $(if $(UPGRADE),--upgrade) setup.cfg -o requirements/base.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) setup.cfg --extra knowledge --extra embed --extra postgres --extra oidc --extra otel --extra pull --extra redis -o requirements/server.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) setup.cfg --extra knowledge --extra embed --extra postgres --extra oidc --extra otel --extra pull --extra test -o requirements/test.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) setup.cfg --extra knowledge --extra embed --extra postgres --extra oidc --extra otel --extra pull --extra test --extra browser --extra dev -o requirements/dev.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) setup.cfg requirements/run.in --extra knowledge --extra embed -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) requirements/dist.in -c requirements/dev.txt -o requirements/dist.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) requirements/build.in -o requirements/build.txt
