# Helpers that the default policies share. Packages below sluice.lib are never asked
# for violations.
package sluice.lib

day := ((24 * 60) * 60) * 1000000000

now := time.parse_rfc3339_ns(input.now)

# since returns the nanoseconds since a date. A date that can't be read is an error,
# and an error is a denial: it is never left out.
since(date) := now - time.parse_ns("2006-01-02", date)

fixed(finding) if finding.fix.state == "fixed"

fixed(finding) if count(finding.fix.versions) > 0

# fix_date is when the first fixed version came out or, where nobody knows, when this
# gateway first saw the advisory. A finding with neither date counts from the year 1970.
fix_date(finding) := date if {
	date := object.get(finding.fix, "available", "")
	date != ""
} else := date if {
	date := object.get(finding, "first_seen", "")
	date != ""
} else := "1970-01-01"

# older_than reports whether the fix of a finding has been out for more than some days.
older_than(finding, days) if since(fix_date(finding)) > days * day

# worst names the first two findings; they come worst first.
worst(findings) := concat(", ", [name(f) | some i, f in findings; i < 2])

name(f) := sprintf("%s in %s %s%s", [f.id, f.package.name, f.package.version, fix_text(f)])

fix_text(f) := sprintf(" (fixed in %s)", [f.fix.versions[0]]) if {
	count(f.fix.versions) > 0
} else := ""

counted(n, one, many) := sprintf("%d %s", [n, word]) if {
	word := {true: one, false: many}[n == 1]
}

# update says what to do about findings.
update(findings) := "Pull a newer build of the image, or rebuild it with the fixed packages." if {
	every f in findings { fixed(f) }
} else := "Pull a newer build of the image, remove the package, or ask for a waiver."
