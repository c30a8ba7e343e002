package configs

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Size is a number of bytes. It is written with a binary unit: "20GiB".
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// UnmarshalText reads "0" or a whole number with one of the units B, KiB, MiB, GiB,
// TiB. Decimal and one-letter units are refused, since people disagree on what they
// mean.
func (s *Size) UnmarshalText(text []byte) error {
	t := string(text)
	digits := strings.TrimRight(t, "BKMGTibkmgt ")
	unit, ok := map[string]Size{"B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB}[strings.TrimSpace(t[len(digits):])]
	n, err := strconv.ParseUint(digits, 10, 63)
	if err == nil && t == "0" {
		*s = 0
		return nil
	}
	if err != nil || !ok {
		return fmt.Errorf("%q is no size: write a whole number and B, KiB, MiB, GiB or TiB, such as 20GiB", t)
	}
	if n > uint64(math.MaxInt64/unit) {
		return fmt.Errorf("%q is larger than any disk", t)
	}
	*s = Size(n) * unit
	return nil
}

// MarshalText writes s with the largest unit that divides it.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String writes s with the largest unit that divides it: "20GiB", "1500B", "0".
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range []struct {
		unit Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if s%u.unit == 0 {
			return fmt.Sprintf("%d%s", s/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}
