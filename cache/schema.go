package cache

import (
	"fmt"
	"strconv"
)

// Schema is the version of what Stores that outlive a process hold: of the names of keys
// and the shapes of values, which the package's documentation lists. It goes up when this
// code can't read what the code before it has written, or the other way round.
const Schema = 1

// CheckSchema returns an error for people where the schema that is found in a store is
// not this code's: nothing in it may be read or written then. where names the store.
func CheckSchema(where, found string) error {
	n, err := strconv.Atoi(found)
	switch {
	case err != nil || n < 1:
		return fmt.Errorf("%s: %.40q is no schema version: it is not a store of sluice, or it is damaged; give this one a place of its own", where, found)
	case n > Schema:
		return fmt.Errorf("%s has schema %d, and this sluice knows schema %d: a newer sluice has written it; run that version, or give this one a place of its own", where, n, Schema)
	case n < Schema:
		return fmt.Errorf("%s has schema %d, and this sluice needs schema %d: export it with the version that wrote it, and start with an empty one", where, n, Schema)
	}
	return nil
}
