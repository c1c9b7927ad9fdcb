#!/bin/sh
# Creates the virtual environment DIR for the interpreter PYTHON, with pip and with what the
# compiler needs to build the core. Called by the Makefile:  sh tools/venv.sh PYTHON DIR
#
# A bare Debian has a Python without ensurepip and without Python.h. Root installs the packages;
# anybody else gets the same files unpacked inside DIR, and the system stays as it is.
set -eu

python=$1
dir=$2

fail() {
    echo "tools/venv.sh: $*" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    fail "$python is not there: install Python 3.11 or newer, or name one: make PYTHON=..."
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Sluice needs Python 3.11 or newer, $python is $version; name another: make PYTHON=..."

has_pip() { "$python" -c 'import ensurepip' 2>/dev/null; }
has_headers() {
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}
has_compiler() { command -v "${CC:-gcc}" >/dev/null || command -v cc >/dev/null; }

missing=
has_pip || missing="$missing python$version-venv"
has_headers || missing="$missing python$version-dev"
has_compiler || missing="$missing gcc libc6-dev"

# The packages fit the distribution's Python only.
case $("$python" -c 'import sys; print(sys.base_prefix)') in
    /usr) command -v apt-get >/dev/null && apt=yes || apt= ;;
    *) apt= ;;
esac

if [ -n "$missing" ] && [ -n "$apt" ] && [ "$(id -u)" = 0 ]; then
    echo "Installing$missing ..."
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } \
        >/dev/null || fail "apt-get could not install:$missing"
    missing=
fi

has_compiler || fail "there is no C compiler: as root, apt-get install gcc libc6-dev"
if [ -n "$missing" ] && [ -z "$apt" ]; then
    fail "$python lacks ensurepip or Python.h: install what your system calls$missing"
fi

echo "Creating $dir for Python $version ..."
if [ -z "$missing" ]; then
    exec "$python" -m venv --clear "$dir"
fi

"$python" -m venv --clear --without-pip "$dir"
work=$(cd "$dir" && pwd)/debian
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"

# apt-get as an ordinary user: with package lists and a cache of our own.
own_apt() {
    apt-get -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o Debug::NoLocking=1 "$@"
}

# Downloads the package $1 and unpacks it in $work/root. The system's package lists may do; a slim
# image has none.
unpack() {
    cd "$work"
    apt-get download "$1" >/dev/null 2>&1 ||
        { own_apt update -qq && own_apt download "$1"; } >/dev/null 2>&1 ||
        fail "$1 is needed and cannot be fetched; ask root for: apt-get install$missing"
    dpkg-deb -x "$1"_*.deb root
    cd - >/dev/null
}

if ! has_headers; then
    echo "Fetching the headers of Python $version ..."
    unpack "libpython$version-dev"
    # Where setuptools looks first when it builds inside a virtual environment.
    cp -r "$work/root/usr/include/python$version/." "$work/root/usr/include/"*-linux-* \
        "$dir/include/"
fi
echo "Fetching pip ..."
if has_pip; then
    "$dir/bin/python" -m ensurepip --default-pip >/dev/null
else
    unpack python3-pip-whl
    wheel=$(echo "$work"/root/usr/share/python-wheels/pip-*.whl)
    "$dir/bin/python" "$wheel/pip" install -q --no-index --disable-pip-version-check "$wheel"
fi
rm -rf "$work"
