# Everything from a fresh machine: `make demo` to see it work, `make test` to see it hold. Needs Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/bimo demo --out demo-model

test: $(VENV)/.installed-for-tests
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed-for-tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# torch goes first and alone, so that nothing that comes later can choose another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'torch>=2.11,<2.14'
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(PIP) --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) demo-model
