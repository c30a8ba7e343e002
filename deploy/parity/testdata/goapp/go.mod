// Programs that the parity run builds and scans. They depend on a release with a known
// vulnerability in one function, CVE-2022-32149, on purpose.
module parity.test/goapp

go 1.24

require golang.org/x/text v0.3.7
