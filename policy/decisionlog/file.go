package decisionlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// lookEvery is how often it is looked whether somebody moved the file away.
const lookEvery = time.Second

// A file is appended to, a line at a time, and opened anew where it was moved away, as
// programs that rotate logs do. A nil file takes everything.
type file struct {
	name   string
	f      *os.File
	looked time.Time
	half   bool // the last line is not whole
}

func openFile(name string) (*file, error) {
	switch name {
	case "":
		return nil, nil
	case "-":
		return &file{name: name, f: os.Stdout}, nil
	}
	o := &file{name: name}
	return o, o.open()
}

func (o *file) open() (err error) {
	f, err := os.OpenFile(o.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("the decision log's file: %w", err)
	}
	if o.f != nil {
		err = o.f.Close()
	}
	o.f, o.looked = f, time.Now()
	return err
}

// write appends a line.
func (o *file) write(line []byte) error {
	if o == nil {
		return nil
	}
	if o.name != "-" && time.Since(o.looked) > lookEvery {
		now, err := os.Stat(o.name)
		mine, mineErr := o.f.Stat()
		if errors.Is(err, fs.ErrNotExist) || err == nil && mineErr == nil && !os.SameFile(now, mine) {
			if err := o.open(); err != nil {
				return err
			}
			o.half = false
		}
		o.looked = time.Now()
	}
	if o.half { // what a full disk has cut off must not spoil the next line
		if _, err := o.f.Write([]byte("\n")); err != nil {
			return err
		}
		o.half = false
	}
	n, err := o.f.Write(line)
	o.half = err != nil && n > 0
	return err
}

func (o *file) close() error {
	if o == nil || o.name == "-" {
		return nil
	}
	return errors.Join(o.f.Sync(), o.f.Close())
}
