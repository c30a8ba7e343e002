# METADATA
# title: Non-root user
# description: >-
#   An image that runs as root unless it is told otherwise is refused. An image that names
#   no user runs as root. A name says nothing of its number, but for root.
package sluice.policies.non_root

user := split(object.get(input.image, "user", ""), ":")[0]

root if user in {"", "root"}

root if regex.match(`^[+-]?0+$`, user)

runnable if input.scan.state != "unsupported"

violations contains {
	"policy": "non_root",
	"message": sprintf("the image runs as root (its user is %q)", [user]),
	"findings": [],
	"remediation": "Set USER to a number over 0 in the image's Dockerfile, such as 65532.",
} if {
	runnable
	root
}
