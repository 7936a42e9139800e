#!/bin/sh
# Installs what the sandbox's real nodes need from the host's packages (Debian and kin).
#
#   install-host.sh           install what is missing; says nothing when everything is there
#   install-host.sh --check   only tell what is missing; status 1 if anything is
set -eu

PACKAGES="containerd runc containernetworking-plugins iptables nftables conntrack iproute2
busybox-static gcc libc6-dev util-linux procps"

missing() {
    for package in $PACKAGES; do
        state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) || state=
        case $state in ii*) ;; *) printf ' %s' "$package" ;; esac
    done
}

note() { printf 'sandbox: %s\n' "$*" >&2; }

if ! command -v dpkg-query >/dev/null; then
    note "not a Debian system: install the likes of $(echo $PACKAGES) for real nodes"
    exit 0
fi

wanted=$(missing)
if [ "${1:-}" = --check ]; then
    [ -z "$wanted" ] || { note "missing:$wanted"; exit 1; }
    exit 0
fi
[ -n "$wanted" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    note "without root the sandbox has simulated nodes only; real ones need:$wanted"
    exit 0
fi

note "installing$wanted"
export DEBIAN_FRONTEND=noninteractive
# A fresh machine has no lists or old ones.
apt-get update -qq
# shellcheck disable=SC2086  # a list of names
apt-get install -qq --no-install-recommends $wanted >/dev/null
