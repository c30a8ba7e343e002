#!/bin/sh
# Builds the image from bin/sluice and this machine's certificate authorities.
#
#   deploy/image.sh [TAG [OPTION OF docker build]…]
#
# TAG is sluice:dev unless said otherwise. $DOCKER is the command, docker unless said
# otherwise; $CA_CERTIFICATES is the file with the authorities, where it is not found.
set -eu
cd "$(dirname "$0")/.."

tag=${1:-sluice:dev}
[ $# -eq 0 ] || shift

if ! [ -x bin/sluice ]; then
	echo "deploy/image.sh: bin/sluice is missing: make build" >&2
	exit 1
fi

authorities=
for f in "${CA_CERTIFICATES:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
	if [ -n "$f" ] && [ -s "$f" ]; then
		authorities=$f
		break
	fi
done
if [ -z "$authorities" ]; then
	echo "deploy/image.sh: no certificate authorities found: install ca-certificates, or set CA_CERTIFICATES to a PEM file" >&2
	exit 1
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/state" "$context/root/tmp"
cp bin/sluice "$context/sluice"
cp "$authorities" "$context/ca-certificates.crt"
chmod 0755 "$context" "$context/sluice" "$context/state" "$context/root"
chmod 1777 "$context/root/tmp"
chmod 0644 "$context/ca-certificates.crt"

"${DOCKER:-docker}" build -t "$tag" -f deploy/Dockerfile "$@" "$context"
