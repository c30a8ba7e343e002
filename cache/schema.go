package cache

import (
	"fmt"
	"strconv"
)

// Schema is the version of what Stores that outlive a process hold: of the names of keys
// and the shapes of values, which the package's documentation lists. It goes up when this
// code can't read what the code before it has written, or the other way round.
const Schema = 1

// CheckSchema returns an error for people where the schema that is found in a store is not
// the one that this code has for such stores: nothing in it may be read or written then.
// where names the store.
func CheckSchema(where, found string, want int) error {
	n, err := strconv.Atoi(found)
	switch {
	case err != nil || n < 1:
		return fmt.Errorf("%s: %.40q is no schema version: it is not a store of sluice, or it is damaged; give this one a place of its own", where, found)
	case n > want:
		return fmt.Errorf("%s has schema %d, and this sluice knows schema %d: a newer sluice has written it; run that version, or give this one a place of its own", where, n, want)
	case n < want:
		return fmt.Errorf("%s has schema %d, and this sluice needs schema %d: export it with the version that wrote it (sluice cache export), and import that into an empty one", where, n, want)
	}
	return nil
}
