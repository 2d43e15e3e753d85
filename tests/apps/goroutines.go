// Many goroutines: a crowd that passes numbers along channels, timers, a mutex, the garbage collector at work.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

type node struct {
	left, right *node
	value       int
}

func grow(depth, value int) *node {
	if depth == 0 {
		return &node{value: value}
	}
	return &node{grow(depth-1, value*2), grow(depth-1, value*2+1), value}
}

func (n *node) sum() int {
	if n == nil {
		return 0
	}
	return n.value + n.left.sum() + n.right.sum()
}

func main() {
	steps, _ := strconv.Atoi(os.Args[1])
	const crowd = 1000
	first := make(chan int)
	in := first
	for i := 0; i < crowd; i++ {
		out := make(chan int)
		go func(in, out chan int, i int) {
			for n := range in {
				out <- (n*31 + i) % 1000003
			}
			close(out)
		}(in, out, i)
		in = out
	}
	last := in
	var lock sync.Mutex
	var ticks int
	ticker := time.NewTicker(time.Millisecond)
	go func() {
		for range ticker.C {
			lock.Lock()
			ticks++
			lock.Unlock()
		}
	}()
	for step := 0; step < steps; step++ {
		first <- step
		through := <-last
		var group sync.WaitGroup
		sums := make([]int, 8)
		for g := range sums {
			group.Add(1)
			go func(g int) {
				defer group.Done()
				sums[g] = grow(11, g+step).sum()
			}(g)
		}
		group.Wait()
		total := 0
		for _, s := range sums {
			total += s
		}
		if step%16 == 0 {
			runtime.GC()
		}
		fmt.Println(step, through, total)
	}
	close(first)
	for range last {
	}
	ticker.Stop()
	lock.Lock()
	if ticks == 0 {
		fmt.Println("the ticker never ticked")
	}
	lock.Unlock()
	fmt.Println("end")
}
