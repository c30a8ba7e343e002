# METADATA
# title: Cooldown
# description: >-
#   An image that is younger than some days is not pulled yet: a build that was tampered
#   with is mostly found within that time. When it was created is what the builder says;
#   when this gateway first saw it is what nobody else can set.
package sluice.policies.cooldown

# In place of it: data.parameters.cooldown.days.
default days := 3

days := data.parameters.cooldown.days

# created, as the image says, or first_seen, by the gateway's clock.
# In place of it: data.parameters.cooldown.clock.
default clock := "created"

clock := data.parameters.cooldown.clock

day := ((24 * 60) * 60) * 1000000000

# Any other word than first_seen is taken for created.
since := object.get(input.history, "first_seen", "") if {
	clock == "first_seen"
} else := object.get(input.image, "created", "")

runnable if input.scan.state != "unsupported"

left := (time.parse_rfc3339_ns(since) + (days * day)) - time.parse_rfc3339_ns(input.now) if since != ""

why := "nobody knows how old the image is" if {
	since == ""
} else := sprintf("the image is younger than %v days: it may be pulled from %s", [
	days,
	time.format([time.parse_rfc3339_ns(since) + (days * day), "UTC", "2006-01-02 15:04 UTC"]),
]) if {
	left > 0
}

violations contains {
	"policy": "cooldown",
	"message": why,
	"findings": [],
	"remediation": "Pull an older build, wait, or ask for a waiver if it brings a fix that you need now.",
} if {
	runnable
}
