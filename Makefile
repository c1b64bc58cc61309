PYTHON ?= python3
.PHONY: setup quickstart test check format

setup:            ## make .venv and install into it
	$(PYTHON) scripts/_setup.py

quickstart:       ## demonstrations, training, evaluation and a report, in minutes
	$(PYTHON) scripts/quickstart.py

test:             ## the fast tests
	$(PYTHON) scripts/run_tests.py

check:            ## ruff and mypy
	$(PYTHON) scripts/_setup.py ruff check
	$(PYTHON) scripts/_setup.py ruff format --check
	$(PYTHON) scripts/_setup.py mypy

format:           ## rewrite in house style
	$(PYTHON) scripts/_setup.py ruff check --fix
	$(PYTHON) scripts/_setup.py ruff format
