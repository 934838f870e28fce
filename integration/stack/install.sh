#!/bin/sh
# Installs what the tests run against: a broker, an object store, a slow network, readers that are not ours.
#
#   integration/stack/install.sh DIR
#
# Everything lands in DIR, once and pinned; a later call finds it there. Many calls at once are safe. Needs
# Java 17, Maven, Go and Python 3.12 or later: as root on Debian the missing ones are installed, elsewhere
# the error names them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
stack=$(cd "$1" && pwd)
exec 9>"$stack/lock"
flock 9

say() { echo "stack: $*" >&2; }

# need COMMAND PACKAGE…: makes sure COMMAND runs.
need() {
    command=$1
    shift
    if sh -c "$command" >/dev/null 2>&1; then
        return
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $* for \`$command\`"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
    fi
    if ! sh -c "$command" >/dev/null 2>&1; then
        say "\`$command\` does not run here; install it (on Debian: apt-get install $*) and try again"
        exit 1
    fi
}

# fresh NAME: true if DIR/NAME is not there yet; then $new is an empty folder to fill.
fresh() {
    [ ! -e "$stack/$1" ] || return 1
    say "installing $1"
    new="$stack/$1.new"
    rm -rf "$new"
    mkdir "$new"
}

# A folder gets its name only when it is complete.
done_with() { mv "$new" "$stack/$1"; }

# go_tool NAME VERSION MODULE: builds one Go program from the module proxy.
go_tool() {
    if fresh "$1-$2"; then
        need 'go version' golang-go
        GOBIN="$new" CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install "$3@v$2" >&2
        find "$new" -type f ! -name "$1" -exec mv {} "$new/$1" \;
        done_with "$1-$2"
    fi
    ln -sfn "$1-$2/$1" "$stack/$1"
}

kafka="kafka-$(cksum <"$here/kafka-pom.xml" | cut -d' ' -f1)"
if fresh "$kafka"; then
    need 'java -version' openjdk-17-jre-headless
    need 'mvn -version' maven
    mvn -q -B -Dstyle.color=never -f "$here/kafka-pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$new/libs" -DincludeScope=runtime >&2
    done_with "$kafka"
fi
ln -sfn "$kafka/libs" "$stack/kafka-libs"

go_tool versitygw 1.8.0 github.com/versity/versitygw/cmd/versitygw
go_tool toxiproxy 2.12.0 github.com/Shopify/toxiproxy/v2/cmd/server
go_tool compose-config 2.16.2 github.com/compose-spec/compose-go/v2/cmd

# A virtual environment holds its own path, so it is made in place and marked when complete.
python="python-$(cksum <"$here/../requirements.txt" | cut -d' ' -f1)"
if [ ! -e "$stack/$python/complete" ]; then
    say "installing $python"
    need 'python3 -c "import ensurepip, venv"' python3 python3-venv
    rm -rf "${stack:?}/$python"
    python3 -m venv "$stack/$python"
    "$stack/$python/bin/pip" install -q --disable-pip-version-check -r "$here/../requirements.txt" >&2
    touch "$stack/$python/complete"
fi
ln -sfn "$python" "$stack/python"

# The first Python that is new enough for the FOCUS validator, those of pyenv included.
newer_python() {
    for candidate in python3.13 python3.12 python3 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python3; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say 'the FOCUS validator needs Python 3.12 or later with its venv module; install one (as python3.12 or with pyenv) and try again'
    exit 1
}

focus="focus-$(cksum <"$here/../requirements-focus.txt" | cut -d' ' -f1)"
if [ ! -e "$stack/$focus/complete" ]; then
    say "installing $focus"
    newer=$(newer_python)
    rm -rf "${stack:?}/$focus"
    "$newer" -m venv "$stack/$focus"
    "$stack/$focus/bin/pip" install -q --disable-pip-version-check -r "$here/../requirements-focus.txt" >&2
    touch "$stack/$focus/complete"
fi
ln -sfn "$focus" "$stack/focus"
