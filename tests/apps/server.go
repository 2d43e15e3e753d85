// An HTTP server in one process, clients in another: sums over kept-alive connections.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

func fail(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func serve() {
	var served atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fmt.Println(listener.Addr())
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fail(err)
		fmt.Fprintf(w, "%d %x", served.Add(1), sha256.Sum256(body))
	})
	fail(http.Serve(listener, nil))
}

func main() {
	if len(os.Args) < 2 {
		serve()
	}
	rounds, err := strconv.Atoi(os.Args[1])
	fail(err)
	server := exec.Command(os.Args[0])
	out, err := server.StdoutPipe()
	fail(err)
	fail(server.Start())
	address, err := bufio.NewReader(out).ReadString('\n')
	fail(err)
	url := "http://" + strings.TrimSpace(address) + "/"
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	for i := 0; i < rounds; i++ {
		var group sync.WaitGroup
		var most atomic.Int64
		for n := 0; n < 16; n++ {
			group.Add(1)
			go func(n int) {
				defer group.Done()
				body := strings.Repeat(fmt.Sprint(i, n), 1+(i*37+n)%3000)
				answer, err := client.Post(url, "text/plain", strings.NewReader(body))
				fail(err)
				text, err := io.ReadAll(answer.Body)
				fail(err)
				answer.Body.Close()
				count, hash, _ := strings.Cut(string(text), " ")
				if hash != fmt.Sprintf("%x", sha256.Sum256([]byte(body))) {
					fail(fmt.Errorf("answer %d %d is wrong", i, n))
				}
				number, err := strconv.ParseInt(count, 10, 64)
				fail(err)
				for old := most.Load(); number > old && !most.CompareAndSwap(old, number); old = most.Load() {
				}
			}(n)
		}
		group.Wait()
		fmt.Println(i, most.Load())
	}
	fail(server.Process.Kill())
	server.Wait()
}
