package sbom

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/anchore/syft/syft/file"
)

// machinery are the errors of a machine that ran out of something or is broken. They say
// nothing of an image: its next catalogue may go well.
var machinery = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	syscall.EIO, syscall.ESTALE, syscall.EROFS}

// faulty returns an error where the machine kept something from being read, so that there
// is no SBOM: one with a Problem would be remembered for the image. Cataloguers leave no
// more than text of their errors. An image with such words in its names is never
// remembered, which costs nobody else anything.
func faulty(said map[file.Coordinates][]string, errs map[string]error) error {
	for path, err := range errs {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return unable(path, err.Error())
		}
	}
	for at, reasons := range said {
		for _, reason := range reasons {
			for _, e := range machinery {
				if strings.Contains(reason, ": "+e.Error()) {
					return unable(at.FullNestedPath(), reason)
				}
			}
		}
	}
	return nil
}

// unable says first what to do: what cataloguers say may be long.
func unable(path, reason string) error {
	reason = strings.ReplaceAll(reason, os.TempDir(), "TMPDIR")
	return fmt.Errorf("the gateway lacked disk (scan.worker_temp) or other means to read %s: %s", clean(path, 200), clean(reason, 300))
}
