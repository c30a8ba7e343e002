# METADATA
# title: Maximum age
# description: >-
#   An image that was built long ago is refused: it misses the fixes of that time, also
#   those that nobody has given a number. One that says no date of its own, or one that
#   lies ahead, is refused too.
package sluice.policies.max_age

# In place of it: data.parameters.max_age.days.
default days := 90

days := data.parameters.max_age.days

day := ((24 * 60) * 60) * 1000000000

created := object.get(input.image, "created", "")

age := time.parse_rfc3339_ns(input.now) - time.parse_rfc3339_ns(created) if created != ""

# What no runtime would run (a signature, an SBOM, a chart) has no age.
runnable if input.scan.state != "unsupported"

why := "the image does not say when it was created" if {
	created == ""
} else := sprintf("the image says that it was created in the future (%s)", [created]) if {
	age < -day
} else := sprintf("the image was created %s, more than %v days ago", [substring(created, 0, 10), days]) if {
	age > days * day
}

violations contains {
	"policy": "max_age",
	"message": why,
	"findings": [],
	"remediation": "Rebuild the image, or pull a newer build.",
} if {
	runnable
}
