# The two commands to know: `make book` and `make test`. Both set up .venv by themselves; `make help` lists the rest.
PYTHON  ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV    ?= .venv
PROFILE ?= book
PORT    ?= 8000
# processes of `make test`; each takes whole files, and one thread
TESTERS ?= 2
TORCH   := torch==2.13.0
# soupsieve 3 refuses Python 3.11.0 to 3.11.4, among them Debian 12's
HELD    := soupsieve<3

PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup book test run models lint serve lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make or update .venv (every other target does it when needed)

book: $(READY)  ## run the notebooks that are stale and render the book     [PROFILE=book]
	@$(PY) -m zsclib book --profile $(PROFILE)

test: $(READY)  ## run every test                                           [ARGS="-k name"] [TESTERS=2]
	@$(PY) -m pytest -n $(TESTERS) --dist loadfile $(ARGS)

run: $(READY)  ## run one notebook                                          NOTEBOOK=name [PROFILE=book] [ARGS="-p seed=1"]
	@test -n "$(NOTEBOOK)" || { echo 'make run: say which notebook, for instance  make run NOTEBOOK=diffusion_classifier'; exit 2; }
	@$(PY) -m zsclib run $(NOTEBOOK) --profile $(PROFILE) $(ARGS)

models: $(READY)  ## train the pocket models again (hours; a killed run goes on where it was)
	@$(PY) -m zsclib.pocket all $(ARGS)

lint: $(READY)  ## check the style of every source file
	@$(PY) -m ruff check .

serve: $(READY)  ## serve the rendered book on this machine                 [PORT=8000]
	@echo "http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lock: $(READY)  ## write requirements.lock anew from pyproject.toml
	@$(PIP) install -q pip-tools
	@printf '%s\n' '$(TORCH)' '$(HELD)' > $(VENV)/constraints.txt
	@$(VENV)/bin/pip-compile -q --extra dev --constraint $(VENV)/constraints.txt --unsafe-package torch --unsafe-package setuptools \
	    --strip-extras --annotation-style line --no-header --no-emit-index-url --no-emit-find-links --no-emit-options \
	    --output-file requirements.lock pyproject.toml
	@sed -i.bak -e '/^nvidia-/d' -e '/^triton==/d' -e '/^cuda-/d' -e '/^#/d' -e '/^$$/d' requirements.lock
	@{ echo "# Written by 'make lock' from pyproject.toml. torch ($(TORCH)) is installed before this list and is not in it."; \
	   cat requirements.lock; } > requirements.lock.bak && mv requirements.lock.bak requirements.lock

clean:  ## remove the rendered book (results/ and .venv stay)
	rm -rf _build book/notebooks book/generated

# torch goes first and by itself, so that one plain version is taken on every machine; -c keeps what it pulls in at
# the locked versions.
# A clone that was copied or moved brings a .venv along that still runs the code of the old place: it is set up again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif
$(READY): pyproject.toml requirements.lock Makefile
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	   echo 'Python 3.11 or newer is needed; name one with  make PYTHON=/path/to/python3.11 ...'; exit 2; }
	@[ "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" ] && $(PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@echo 'Setting up $(VENV) (minutes the first time): $(TORCH), then requirements.lock'
	@$(PIP) install -q --no-compile --prefer-binary -c requirements.lock $(TORCH)
	@$(PIP) install -q --no-compile --prefer-binary -r requirements.lock
	@$(PIP) install -q --no-compile --no-deps -e .
	@printf '%s' "$(CURDIR)" > $@
