#!/bin/sh
# Installs what the end-to-end tests drive, on Debian 12 as root: real clients, real
# servers. Run it as often as you like; what is there is left as it is. No service is
# started by it, and none that runs is stopped.
#
#	install.sh              all that `make e2e` needs
#	install.sh slow         the same, and what takes long to build
#	install.sh conformance  nothing but the distribution specification's own suite
set -eu
cd "$(dirname "$0")/../.."
tools=$PWD/bin/tools
mkdir -p "$tools"

# tool NAME PACKAGE VERSION builds a program, unless it is there in that version.
tool() {
	if [ -x "$tools/$1" ] && go version -m "$tools/$1" | grep -q "^[[:space:]]mod[[:space:]].*[[:space:]]$3[[:space:]]"; then
		return
	fi
	echo "building $1 $3"
	GOBIN=$tools/new CGO_ENABLED=0 go install "$2@$3"
	mv "$tools/new/${2##*/}" "$tools/$1"
	rmdir "$tools/new"
}

conformance() {
	tool conformance github.com/opencontainers/distribution-spec/conformance v0.0.0-20260831232431-97274622c111
}

# Programs of Debian, which make up the most of it.
debian() {
	missing=
	for p in docker.io iptables containerd runc podman buildah skopeo redis-server redis-sentinel docker-registry \
		mmdebstrap iproute2 util-linux zstd xz-utils ca-certificates; do
		case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true) in
		"install ok installed") ;;
		*) missing="$missing $p" ;;
		esac
	done
	if [ -z "$missing" ]; then
		return
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "deploy/e2e/install.sh: not root, and these packages are missing:$missing" >&2
		exit 1
	fi
	# Debian starts a service as soon as it is installed, unless this file says no.
	policy=/usr/sbin/policy-rc.d
	if ! [ -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 0755 "$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	# shellcheck disable=SC2086 # one word a package
	apt-get install -qy --no-install-recommends $missing
}

# A real Debian root file system, which takes minutes to make. It is kept for a week,
# outside of the tree.
rootfs() {
	cache=${SLUICE_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-e2e}
	mkdir -p "$cache"
	if ! [ -s "$cache/debian.tar" ] || [ -n "$(find "$cache/debian.tar" -mtime +7)" ]; then
		rm -f "$cache/new.tar"
		mmdebstrap --mode=root --variant=minbase --include=ca-certificates bookworm "$cache/new.tar"
		mv "$cache/new.tar" "$cache/debian.tar"
	fi
}

case ${1:-} in
conformance)
	conformance
	exit
	;;
"" | slow) ;;
*)
	echo "deploy/e2e/install.sh: $1: say slow, conformance or nothing" >&2
	exit 2
	;;
esac

debian
rootfs
conformance
# crane, of the version that go.mod has of its library.
ggcr=github.com/google/go-containerregistry
tool crane $ggcr/cmd/crane "$(go list -m -f '{{.Version}}' $ggcr)"
tool oras oras.land/oras/cmd/oras v1.3.6
tool regctl github.com/regclient/regclient/cmd/regctl v0.11.7
tool versitygw github.com/versity/versitygw/cmd/versitygw v1.8.0
tool toxiproxy-server github.com/Shopify/toxiproxy/v2/cmd/server v2.5.0
if [ "${1:-}" = slow ]; then
	for p in containerd ctr; do
		tool $p github.com/containerd/containerd/v2/cmd/$p v2.4.2
	done
	tool cosign github.com/sigstore/cosign/v3/cmd/cosign v3.1.3
fi
