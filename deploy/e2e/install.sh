#!/bin/sh
# Installs what the end-to-end tests drive, on Debian 12 as root: real clients, real
# servers. Run it as often as you like; what is there is left as it is. No service is
# started by it, and none that runs is stopped.
set -eu
cd "$(dirname "$0")/../.."

packages="docker.io iptables containerd runc podman buildah skopeo redis-server docker-registry
mmdebstrap iproute2 util-linux zstd xz-utils ca-certificates"

missing=
for p in $packages; do
	case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true) in
	"install ok installed") ;;
	*) missing="$missing $p" ;;
	esac
done

if [ -n "$missing" ]; then
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
fi

# crane, of the version that go.mod has of its library.
ggcr=github.com/google/go-containerregistry
version=$(go list -m -f '{{.Version}}' $ggcr)
tools=$PWD/bin/tools
if ! { [ -x "$tools/crane" ] && go version -m "$tools/crane" | grep -q "mod[[:space:]]$ggcr[[:space:]]$version[[:space:]]"; }; then
	GOBIN=$tools CGO_ENABLED=0 go install "$ggcr/cmd/crane@$version"
fi

# A real Debian root file system, which takes minutes to make. It is kept for a week,
# outside of the tree.
cache=${SLUICE_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-e2e}
mkdir -p "$cache"
if ! [ -s "$cache/debian.tar" ] || [ -n "$(find "$cache/debian.tar" -mtime +7)" ]; then
	rm -f "$cache/new.tar"
	mmdebstrap --mode=root --variant=minbase --include=ca-certificates bookworm "$cache/new.tar"
	mv "$cache/new.tar" "$cache/debian.tar"
fi
