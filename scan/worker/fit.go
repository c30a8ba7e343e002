package worker

import (
	"runtime"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// defaultMemory is what a process is given where there is enough: twice what the
	// largest image in public use that was measured took.
	defaultMemory = 2 << 30
	// leastMemory is for the licence scanner, a database and a small image.
	leastMemory = 256 << 20
)

// Fit returns how many processes a machine carries, and how many bytes of memory each
// of them should not use more of: see Pool.Size and Pool.MemoryLimit. memory is that of
// the machine in bytes, 0 where it isn't known. workers is how many processes somebody
// wants, 0 where the machine is to say it.
//
// Two keep a warm one when one dies. More than half the cores gain nothing, since one
// catalogue keeps two cores busy. At worst all of them, and the one that is started for
// what a crash left over, reach twice their limit, which is where they end: that is to
// fit into three quarters of the memory. Where it doesn't there are fewer of them, and
// one and the spare share what there is.
func Fit(cores int, memory int64, workers int) (size int, limit int64) {
	size, limit = workers, defaultMemory
	if size <= 0 {
		size = max(2, cores/2)
	}
	if memory <= 0 {
		return size, limit
	}
	room := memory / 4 * 3
	if workers <= 0 {
		size = max(1, min(size, int(room/(2*limit))-1))
	}
	return size, max(leastMemory, min(limit, room/int64(2*(size+1))))
}

// Machine returns what Fit needs to know of this one: the cores that may be used, and
// the memory, as the control group has it where that says less than the machine.
func Machine() (cores int, memory int64) {
	for _, provider := range []memlimit.Provider{memlimit.FromSystem, memlimit.FromCgroup} {
		if n, err := provider(); err == nil && n > 0 && n < 1<<62 && (memory == 0 || int64(n) < memory) {
			memory = int64(n)
		}
	}
	return runtime.GOMAXPROCS(0), memory
}
