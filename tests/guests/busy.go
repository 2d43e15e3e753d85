// Goroutines that pass numbers round, allocate, sleep and make system calls, and check every result: what a save that is
// cut off in the middle would hurt first. Talks with the harness as tests/guests/guest.h does.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

var here, _ = os.Getwd()

func told(name string) bool {
	return syscall.Access(filepath.Join(here, name), 0) == nil
}

func check(condition bool, what string, args ...interface{}) {
	if condition {
		return
	}
	log, _ := os.OpenFile(filepath.Join(here, "fails.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0644)
	fmt.Fprintf(log, what+"\n", args...)
	os.Exit(1)
}

// Passes what it gets on, one higher, until it gets nothing more.
func pass(in <-chan uint64, out chan<- uint64) {
	for n := range in {
		out <- n + 1
	}
	close(out)
}

func calls(done *sync.WaitGroup) {
	defer done.Done()
	pid, ppid := os.Getpid(), os.Getppid()
	var p [2]int
	check(syscall.Pipe(p[:]) == nil, "pipe")
	kept := make(map[int][]byte)
	for n := 0; !told("go"); n++ {
		data := make([]byte, 512)
		for i := range data {
			data[i] = byte(n * i)
		}
		kept[n%100] = data
		back := make([]byte, 512)
		w, err := syscall.Write(p[1], data)
		check(w == 512 && err == nil, "write: %d %v", w, err)
		r, err := syscall.Read(p[0], back)
		check(r == 512 && err == nil && string(back) == string(data), "read: %d %v", r, err)
		_, err = syscall.Seek(p[0], 0, 1)
		check(err == syscall.ESPIPE, "seek: %v", err)
		check(os.Getpid() == pid && os.Getppid() == ppid, "ids")
		check(sha256.Sum256(data) == sha256.Sum256(back), "hash")
		old := kept[(n+1)%100]
		for i := range old {
			check(old[i] == byte((n-99)*i), "old memory")
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func main() {
	const links = 50
	var done sync.WaitGroup
	for i := 0; i < 3; i++ {
		done.Add(1)
		go calls(&done)
	}
	first := make(chan uint64)
	last := first
	for i := 0; i < links; i++ {
		next := make(chan uint64)
		go pass(last, next)
		last = next
	}
	os.Stdout.WriteString("ready\n")
	beat, err := os.OpenFile("beat", os.O_WRONLY|os.O_CREATE, 0644)
	check(err == nil, "beat: %v", err)
	for n := uint64(1); !told("go"); n++ {
		first <- n
		got := <-last
		check(got == n+links, "%d came back as %d", n, got)
		beat.WriteAt([]byte(fmt.Sprintf("%020d\n", n)), 0)
		time.Sleep(time.Millisecond)
	}
	close(first)
	_, more := <-last
	check(!more, "one number too many")
	done.Wait()
	os.Stdout.WriteString("PASS\n")
}
