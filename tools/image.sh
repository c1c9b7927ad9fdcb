#!/bin/sh
# Builds the image of deploy/docker/Dockerfile without Docker and without a registry, and runs it:
#
#   sh tools/image.sh [ARCHIVE]      ARCHIVE: also save it there, for `docker load` and the like
#
# The base images are made of Debian's packages (mmdebstrap), the image by Debian's buildah. Needs
# root. Bases are kept beside the servers of the tests: $SLUICE_SERVERS, or else
# $XDG_CACHE_HOME/sluice-servers.
set -eu

archive=${1:-}
cd "$(dirname "$0")/.."
cache=${SLUICE_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-servers}
python=${PYTHON:-python3}
begun=$(date +%s)

say() { echo "image: $* ($(($(date +%s) - begun)) s)"; }
fail() {
    echo "image: $*" >&2
    exit 1
}

missing=
for tool in buildah mmdebstrap; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ "$(id -u)" = 0 ] || fail "needs root; anybody can: docker build -f deploy/docker/Dockerfile ."
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "missing here:$missing"
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } \
        >/dev/null || fail "apt-get could not install:$missing"
fi

work=$(mktemp -d)
storage="--storage-driver vfs --root $work/storage --runroot $work/run"
clean_up() {
    # shellcheck disable=SC2086
    buildah $storage umount --all >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# A file system in a tar archive: base NAME PACKAGES. The distribution is that of this machine.
base() {
    made_of="$(. /etc/os-release && echo "$VERSION_CODENAME") essential $2"
    tar=$cache/base-$1-$(echo "$made_of" | sha256sum | cut -c 1-12).tar
    if [ ! -e "$tar" ]; then
        say "making the base \"$1\" of $2"
        mkdir -p "$cache"
        mmdebstrap --quiet --format=tar --variant=essential --include="$2" \
            "${made_of%% *}" "$tar.$$" >"$work/log" 2>&1 ||
            { rm -f "$tar.$$" && tail -n 20 "$work/log" >&2 && fail "mmdebstrap failed"; }
        mv "$tar.$$" "$tar"
    fi
    printf 'FROM scratch\nADD base.tar /\n' >"$work/base"
    mkdir -p "$work/context"
    ln -f "$tar" "$work/context/base.tar" 2>/dev/null || cp "$tar" "$work/context/base.tar"
    # shellcheck disable=SC2086
    buildah $storage build -q --isolation chroot -f "$work/base" -t "base-$1" "$work/context" \
        >/dev/null
}
# numpy needs the C++ library, which an image of python has.
base run python3,ca-certificates,libstdc++6
base build python3,python3-venv,python3-dev,gcc,libc6-dev
say "bases are there"

# Where pip looks for packages here, it looks in there.
"$python" tools/image_pip.py "$work"
set -- --secret "id=pip-conf,src=$work/pip.conf"
[ ! -e "$work/pip-ca" ] || set -- "$@" --secret "id=pip-ca,src=$work/pip-ca"
# shellcheck disable=SC2086
buildah $storage build --isolation chroot --layers=false "$@" \
    --build-arg BASE=localhost/base-run --build-arg BUILD_BASE=localhost/base-build \
    -f deploy/docker/Dockerfile -t tco-configurator:latest . >"$work/log" 2>&1 ||
    { tail -n 40 "$work/log" >&2 && fail "buildah failed"; }
say "built"

# shellcheck disable=SC2086
container=$(buildah $storage from localhost/tco-configurator:latest)
# shellcheck disable=SC2086
root=$(buildah $storage mount "$container")
# shellcheck disable=SC2086
buildah $storage inspect "$container" >"$work/inspected.json"
"$python" tools/image_check.py "$root" "$work/inspected.json" ||
    fail "it does not run as it should"
say "runs as it should"

if [ -n "$archive" ]; then
    # shellcheck disable=SC2086
    buildah $storage push -q localhost/tco-configurator:latest \
        "docker-archive:$archive:tco-configurator:latest"
    say "saved as $archive"
fi
