package cache

import (
	"container/list"
	"time"
)

// A copyKey names what was read: the value under a key, or the map.
type copyKey struct {
	Key
	fields bool
}

// A copied is what was read of an entry, that there is none included. It never changes.
type copied struct {
	key     copyKey
	value   []byte
	fields  map[string][]byte
	miss    error
	cost    int64     // bytes, about
	at      time.Time // when it was asked for
	contact int
}

// copyCost is what a copy takes beside its bytes.
const copyCost = 256

// A load is a read that is on its way.
type load struct {
	users   int
	contact int
	began   time.Time
	changed bool // what it brings may be older than the news
}

// copies are kept up to a number of bytes; the one that was not used for longest goes
// first. Its user locks.
type copies struct {
	max, bytes int64
	at         map[copyKey]*list.Element
	used       list.List // of *copied, used last in front
}

func (c *copies) len() int { return c.used.Len() }

func (c *copies) get(k copyKey) *copied {
	e := c.at[k]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(*copied)
}

// put keeps v under k, unless it takes more than a sixteenth of what there is room for.
func (c *copies) put(k copyKey, v *copied) {
	c.drop(k)
	if v.cost > c.max/16 {
		return
	}
	if c.at == nil {
		c.at = map[copyKey]*list.Element{}
	}
	v.key = k
	c.at[k] = c.used.PushFront(v)
	for c.bytes += v.cost; c.bytes > c.max; {
		c.drop(c.used.Back().Value.(*copied).key)
	}
}

func (c *copies) drop(k copyKey) {
	if e := c.at[k]; e != nil {
		c.bytes -= c.used.Remove(e).(*copied).cost
		delete(c.at, k)
	}
}
