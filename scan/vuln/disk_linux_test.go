package vuln

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// small mounts a file system of so many kilobytes.
func small(t *testing.T, kilobytes int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", kilobytes)); err != nil {
		t.Skipf("a small file system can't be mounted: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill leaves so many kilobytes of a file system.
func fill(t *testing.T, dir string, leave int64) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	check(t, os.RemoveAll(name))
	var s syscall.Statfs_t
	check(t, syscall.Statfs(dir, &s))
	n := int64(s.Bavail)*int64(s.Bsize) - leave<<10
	f, err := os.Create(name)
	check(t, err)
	defer f.Close()
	check(t, syscall.Fallocate(int(f.Fd()), 0, 0, max(n, 1)))
}

// The disk is full when the archive arrives, when it is unpacked, and when the build is
// indexed, and at last for anything at all. What was active serves on; what is half done
// is removed; and it works once there is room.
func TestFullDisk(t *testing.T) {
	dir := small(t, 64<<10)
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	root := filepath.Join(dir, "db")
	first := &Databases{Root: root, URL: m.URL}
	_, _, err := first.Update(t.Context(), nil)
	check(t, err)
	next := m.publish(t, time.Hour)
	archive, err := os.Stat(m.archive(t))
	check(t, err)
	plain, err := os.Stat(filepath.Join(good.Dir, "vulnerability.db"))
	check(t, err)
	packed, unpacked := archive.Size()>>10, plain.Size()>>10

	for _, c := range []struct {
		name, step string
		room       int64 // kilobytes, when the step is done
	}{
		{"nothing", "", 0}, {"listed", "listed", packed / 2}, {"fetched", "fetched", unpacked / 2}, {"unpacked", "unpacked", 4}, {"indexed", "indexed", 0},
	} {
		for _, reserve := range []int64{-1 << 40, 256 << 20} { // without looking at the disk, writing fails by itself
			t.Run(fmt.Sprintf("%s, reserve %d", c.name, reserve), func(t *testing.T) {
				d := &Databases{Root: root, URL: m.URL, bounds: bounds{reserve: reserve}}
				reached := c.step == ""
				if reached {
					fill(t, dir, c.room)
				}
				d.step = func(s string) {
					if s == c.step {
						reached = true
						fill(t, dir, c.room)
					}
				}
				_, changed, err := d.Update(t.Context(), nil)
				if !reached {
					t.Fatalf("%v before %s", err, c.step)
				}
				switch {
				case err == nil && c.step == "indexed": // a sample needs no room any more
				case err == nil || changed || reasonOf(err) != NoDisk || d.Status(t.Context()).LastReason != NoDisk:
					t.Errorf("changed %v, %q, %v", changed, reasonOf(err), err)
				default:
					t.Log(err)
					usable(t, &Databases{Root: root}, good)
				}
				leftovers(t, d)
				check(t, os.RemoveAll(filepath.Join(dir, "filler")))
				if err == nil {
					_, err := d.ImportAny(t.Context(), good.Dir)
					check(t, err)
				}
				if builds, _ := filepath.Glob(filepath.Join(root, buildPrefix+"*")); err != nil && len(builds) > 2 {
					t.Errorf("%d builds are left", len(builds))
				}
			})
		}
	}
	_, _, err = first.Update(t.Context(), nil)
	check(t, err)
	usable(t, first, next)
}

// The rest of the disk is not for databases: the store lies there.
func TestReserve(t *testing.T) {
	dir := small(t, 64<<10)
	m := newMirror(t)
	m.publish(t, time.Hour)
	d := &Databases{Root: filepath.Join(dir, "db"), URL: m.URL}
	fill(t, dir, 3<<10) // a twentieth of 64 MB are 3.2
	if _, _, err := d.Update(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Errorf("error %v", err)
	}
	fill(t, dir, 8<<10)
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
}

// A folder that may not be written is said, and is no database that is missing.
func TestReadOnlyFolder(t *testing.T) {
	dir := small(t, 4<<10)
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	d := &Databases{Root: filepath.Join(dir, "db"), URL: m.URL}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	m.publish(t, time.Hour)
	check(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	if _, _, err := d.Update(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "read-only file system") || reasonOf(err) != NoDisk {
		t.Errorf("%q, %v", reasonOf(err), err)
	}
	usable(t, &Databases{Root: d.Root}, good)
}

// What root imports or downloads belongs to whom the state's folder belongs to: else the
// gateway, which is somebody else, could not read its own database any more.
func TestRootImports(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give files away")
	}
	m := newMirror(t)
	m.publish(t, 2*time.Hour)
	state := t.TempDir()
	check(t, os.Chown(state, 1234, 2345))
	d := &Databases{Root: filepath.Join(state, "db"), URL: m.URL}
	_, err := d.Import(t.Context(), m.archive(t))
	check(t, err)
	m.publish(t, time.Hour)
	_, _, err = d.Update(t.Context(), nil)
	check(t, err)
	check(t, filepath.Walk(d.Root, func(name string, i os.FileInfo, err error) error {
		if s := i.Sys().(*syscall.Stat_t); filepath.Base(name) != retiredFile && (s.Uid != 1234 || s.Gid != 2345) {
			t.Errorf("%s belongs to %d:%d", name, s.Uid, s.Gid)
		}
		return err
	}))
}

// The progress of a download, and a context that ends in it.
func TestProgress(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".json") {
				h.ServeHTTP(w, r)
				return
			}
			w.Write(make([]byte, 1000)) // no length said
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	_, _, err := d.Update(ctx, func(done, total int64) {
		if done != 1000 || total != 0 {
			t.Errorf("%d of %d", done, total)
		}
		cancel()
	})
	if err == nil || d.LastCheck() != (Check{}) {
		t.Errorf("%v is noted as %+v: being told to stop is no failure", err, d.LastCheck())
	}
	leftovers(t, d)
}
