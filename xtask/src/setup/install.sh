# Runs as root: installs the packages named as arguments. Whatever they are, no service starts.
set -eu
export DEBIAN_FRONTEND=noninteractive

# dpkg's maintainer scripts ask this file before they start a service; 101 means "no".
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if ! [ -e "$policy" ]; then
    trap 'rm -f "$policy" "$log"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

had_nginx=yes
command -v nginx >/dev/null || had_nginx=no

get() {
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1
}
install() {
    get install --no-install-recommends "$@"
}

# The package lists of a fresh machine are empty, those of an old one may name files that are gone.
if ! install "$@"; then
    if ! get update || ! install "$@"; then
        cat "$log" >&2
        exit 1
    fi
fi

# Nor does a web server that only the tests use belong into the next boot.
if [ "$had_nginx" = no ] && command -v nginx >/dev/null && command -v systemctl >/dev/null; then
    systemctl disable nginx.service >>"$log" 2>&1 || cat "$log" >&2
fi
