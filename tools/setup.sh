#!/bin/sh
# Makes .venv with everything that the demo, JupyterLab and the tests need, and finds a Chromium.
#
#   tools/setup.sh            what `make setup` runs; returns at once when nothing has changed
#   tools/setup.sh --quick    the same, but where no Chromium was found before, seek none again
#   tools/setup.sh --engines  also Ray and Dask, whose tests are left out where they are not to be had
#
# It writes inside the clone only (pip keeps its usual cache, system packages are asked for below).
# Interrupted, it starts again where that is safe: the stamp is written last.
# From the environment: PYTHON (the interpreter to use), CHROMIUM (a browser to use), PIP_* as ever.
set -eu

cd "$(dirname "$0")/.."
clone=$(pwd)
venv=.venv
stamp=$venv/.complete
PLAYWRIGHT_BROWSERS_PATH=$clone/$venv/browsers
export PLAYWRIGHT_BROWSERS_PATH

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What the environment was made from: another clone path or other requirements make another one.
wanted() { printf '%s\n' "$clone"; cat pyproject.toml tools/setup.sh | cksum; }

# Installs Debian packages where this user may; else returns 1.
apt_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then as_root=""
    elif sudo -n true 2>/dev/null; then as_root="sudo -n"
    else return 1
    fi
    say "installing $* with apt-get"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update || return 1
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" >/dev/null || return 1
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if recent "$candidate"; then command -v "$candidate"; return; fi
    done
    fail "Python 3.11 or newer is needed and was not found (set PYTHON to one)"
}

make_venv() {
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv" \
            || fail "$python has no venv module: install the package python$version-venv"
    fi
    rm -rf "$venv"
    say "making $venv with $python"
    "$python" -m venv "$venv"
}

complete() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ]; }

# An environment holds its own path: one that was moved or left half made is made anew.
usable_venv() {
    grep -q "$clone/$venv/" "$venv/bin/pip" 2>/dev/null \
        && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

# A home of its own: Chromium leaves a profile even after telling its version.
works() { HOME=$clone/$venv/home "$1" --headless --no-sandbox --version >/dev/null 2>&1; }

# Prints the Chromium that the browser tests will use: tests/browser/labkit.py looks the same way.
find_chromium() {
    for candidate in ${CHROMIUM:-chromium chromium-browser google-chrome}; do
        if path=$(command -v "$candidate") && works "$path"; then printf '%s\n' "$path"; return; fi
    done
    path=$("$venv/bin/python" tests/browser/chromium.py) && works "$path" && printf '%s\n' "$path"
}

remember_chromium() { path=$(find_chromium) && printf '%s\n' "$path" >"$venv/chromium"; }

known_chromium() { [ -f "$venv/chromium" ] && [ -x "$(cat "$venv/chromium")" ]; }

install_chromium() {
    say "no Chromium here: trying Playwright's own"
    if "$venv/bin/playwright" install chromium-headless-shell chromium >"$venv/playwright.log" 2>&1
    then
        remember_chromium && return
        "$venv/bin/playwright" install-deps chromium >>"$venv/playwright.log" 2>&1 || true
        remember_chromium && return
    fi
    say "Playwright's own is not to be had ($venv/playwright.log): trying the distribution's"
    apt_install chromium >"$venv/apt.log" 2>&1 || true
    remember_chromium
}

# The kernels that tests/notebook_ext/widgets/test_comm_filter.py runs besides the newest.
install_kernels() {
    for version in 7.0.1 7.2.0 7.4.0; do
        [ -d "$venv/kernels/$version" ] || "$venv/bin/python" -m pip install --quiet --no-deps \
            --target "$venv/kernels/$version" "ipykernel==$version"
    done
}

# CPython's own tests of executors, which tests/suites runs on ours. Many interpreters come without:
# then those of the distribution's Python are taken, where it is of the same minor version.
install_cpython_tests() {
    tests=$venv/cpython/test
    minor=$("$venv/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    own=$("$venv/bin/python" -c 'import test; print(test.__path__[0])' 2>/dev/null) || return 0
    for there in "$own" "$tests"; do
        [ -e "$there/test_concurrent_futures.py" ] && return
        [ -e "$there/test_concurrent_futures" ] && return
    done
    got=$venv/cpython.got
    rm -rf "$got" && mkdir -p "$got" "$tests"
    if (cd "$got" && apt-get download "lib$minor-testsuite" && dpkg-deb -x ./*.deb .) \
        >"$venv/cpython.log" 2>&1
    then
        ln -sf "$own/__init__.py" "$tests/__init__.py"
        ln -sfn "$own/support" "$tests/support"
        cp -R "$got/usr/lib/$minor/test/test_concurrent_futures"* "$tests"
    else
        say "CPython's own tests of executors are not to be had ($venv/cpython.log): left out"
        rm -rf "$venv/cpython"
    fi
    rm -rf "$got"
}

if ! complete; then
    usable_venv || make_venv
    say "installing notebook-ext and what its demo and tests need (a few minutes at first)"
    rm -rf "$venv/tmp" && mkdir "$venv/tmp"  # what an interrupted pip leaves is here, not in /tmp
    TMPDIR=$clone/$venv/tmp "$venv/bin/python" -m pip install --quiet --editable ".[docs,lab,test]"
    rm -rf "$venv/tmp"
    install_kernels
    install_cpython_tests
    wanted >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "$venv is complete"
fi

# As pip does with what it copies: no process need compile what it imports, whatever
# PYTHONDONTWRITEBYTECODE says.
"$venv/bin/python" -m compileall -q kernel_worker notebook_ext

if [ "${1:-}" = --engines ] && [ "$(cat "$stamp.engines" 2>/dev/null)" != "$(wanted)" ]; then
    if "$venv/bin/python" -m pip install --quiet --editable ".[ray,dask]" >"$venv/engines.log" 2>&1
    then
        wanted >"$stamp.engines"
    else
        tail -n 3 "$venv/engines.log" >&2
        say "Ray and Dask are not to be had: their tests are left out ($venv/engines.log)" >&2
    fi
fi

if known_chromium || { [ "${1:-}" = --quick ] && [ -f "$venv/playwright.log" ]; }; then exit 0; fi
if remember_chromium || install_chromium; then
    say "Chromium for the browser tests: $(cat "$venv/chromium")"
else
    say "NO CHROMIUM: everything but the browser tests works. Install one (the package" >&2
    say "chromium, for example) or set CHROMIUM to one, and run make setup again." >&2
fi
