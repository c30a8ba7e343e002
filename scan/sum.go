package scan

import (
	"encoding/binary"
	"hash/maphash"
	"math"
)

// sumSeed makes the sums of this process ones that a stranger can't aim at.
var sumSeed = maphash.MakeSeed()

// A Sum is a hash of findings that is made once, and known for the very slice that it was
// made of: whoever replaces that slice need not think of it. The zero value is of none.
type Sum struct {
	first *Finding
	n     int
	value uint64
}

// SumOf returns the Sum of findings that are not changed any more.
func SumOf(fs []Finding) Sum {
	s := Sum{n: len(fs), value: SumFindings(fs)}
	if len(fs) > 0 {
		s.first = &fs[0]
	}
	return s
}

// Of returns the hash of fs, which it makes where s is not of this slice.
func (s Sum) Of(fs []Finding) uint64 {
	if len(fs) == 0 || s.n != len(fs) || s.first != &fs[0] {
		return SumFindings(fs)
	}
	return s.value
}

// Equal reports whether s and other are of findings that are equal.
func (s Sum) Equal(other Sum) bool { return s.value == other.value }

// SumFindings hashes every field of findings, for this process alone.
func SumFindings(fs []Finding) uint64 {
	s := newSummer()
	for i := range fs {
		f := &fs[i]
		s.text(f.ID, f.Severity, f.KEV, f.Published, f.FirstSeen, f.Fix.State, f.Fix.Available, string(f.Layer), f.Path)
		s.pkg(&f.Package)
		s.list(f.Aliases)
		s.list(f.Fix.Versions)
		s.number(f.CVSS)
		s.number(f.EPSS)
		s.number(f.Percentile)
		if f.SuppressedBy != nil {
			s.text(*f.SuppressedBy)
		}
		s.flush()
	}
	return s.sum()
}

// SumPackages is SumFindings for packages.
func SumPackages(ps []Package) uint64 {
	s := newSummer()
	for i := range ps {
		s.pkg(&ps[i])
		s.flush()
	}
	return s.sum()
}

// A summer hashes texts with their lengths.
type summer struct {
	h   maphash.Hash
	buf []byte
}

func newSummer() *summer {
	s := &summer{buf: make([]byte, 0, 1024)}
	s.h.SetSeed(sumSeed)
	return s
}

func (s *summer) text(texts ...string) {
	for _, t := range texts {
		s.buf = binary.LittleEndian.AppendUint32(s.buf, uint32(len(t)))
		s.buf = append(s.buf, t...)
	}
}

func (s *summer) list(l []string) {
	s.buf = binary.LittleEndian.AppendUint32(s.buf, uint32(len(l)))
	s.text(l...)
}

func (s *summer) number(f float64) {
	s.buf = binary.LittleEndian.AppendUint64(s.buf, math.Float64bits(f))
}

func (s *summer) pkg(p *Package) {
	s.text(p.Name, p.Version, p.Type, p.PURL)
	s.list(p.Licenses)
}

func (s *summer) flush() {
	s.h.Write(s.buf)
	s.buf = s.buf[:0]
}

func (s *summer) sum() uint64 { return s.h.Sum64() }
