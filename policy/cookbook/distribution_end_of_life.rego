# METADATA
# title: End of life of the distribution
# description: >-
#   An image on a distribution that gets no more fixes is refused from its end of life,
#   and warned of before. A distribution with releases whose end nobody knows is warned of.
package sluice.policies.distribution_end_of_life

# How many days after its end of life a distribution may still be used, for who pays for
# more. In place of it: data.parameters.distribution_end_of_life.days.
default days := 0

days := data.parameters.distribution_end_of_life.days

# How many days before that it is warned of.
# In place of it: data.parameters.distribution_end_of_life.notice.
default notice := 60

notice := data.parameters.distribution_end_of_life.notice

day := ((24 * 60) * 60) * 1000000000

# rolling distributions have no releases, and no end.
rolling := {"", "wolfi", "chainguard", "arch", "opensuse-tumbleweed", "gentoo", "void"}

distro := object.get(input.scan.coverage, "distro", "")

name := trim_space(sprintf("%s %s", [distro, object.get(input.scan.coverage, "distro_version", "")]))

end := object.get(input.scan.coverage, "distro_eol", "")

left := ((days + 1) * day) - (time.parse_rfc3339_ns(input.now) - time.parse_ns("2006-01-02", end)) if end != ""

violations contains {
	"policy": "distribution_end_of_life",
	"message": sprintf("%s is past its end of life (%s) and gets no more fixes", [name, end]),
	"findings": [],
	"remediation": "Rebuild the image on a release that is still supported.",
} if {
	left <= 0
}

warnings contains {
	"policy": "distribution_end_of_life_near",
	"message": sprintf("%s gets no more fixes after %s", [name, end]),
	"findings": [],
	"remediation": "Plan to rebuild the image on a newer release.",
} if {
	left > 0
	left <= notice * day
}

warnings contains {
	"policy": "distribution_end_of_life_unknown",
	"message": sprintf("nobody knows until when %s gets fixes", [name]),
	"findings": [],
	"remediation": "Look up whether the release is supported.",
} if {
	end == ""
	not distro in rolling
}
