// Go's own: goroutines, channels, select, timers, maps, garbage, defer and recover. All that it prints is the same every time.
package main

import (
	"errors"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"
)

// A number goes through a pipeline of filters, one goroutine for each prime.
func primes(count int) []int {
	numbers := make(chan int)
	done := make(chan struct{})
	go func() {
		for n := 2; ; n++ {
			select {
			case numbers <- n:
			case <-done:
				return
			}
		}
	}()
	var found []int
	in := numbers
	for len(found) < count {
		prime := <-in
		found = append(found, prime)
		out := make(chan int)
		go func(in, out chan int, prime int) {
			for {
				select {
				case n := <-in:
					if n%prime != 0 {
						select {
						case out <- n:
						case <-done:
							return
						}
					}
				case <-done:
					return
				}
			}
		}(in, out, prime)
		in = out
	}
	close(done)
	return found
}

type tree struct {
	left, right *tree
	key         int
}

func (t *tree) put(key int) *tree {
	if t == nil {
		return &tree{key: key}
	}
	if key < t.key {
		t.left = t.left.put(key)
	} else if key > t.key {
		t.right = t.right.put(key)
	}
	return t
}

func (t *tree) walk(visit func(int)) {
	if t != nil {
		t.left.walk(visit)
		visit(t.key)
		t.right.walk(visit)
	}
}

// Workers that share a map under a lock.
func count(words []string, workers int) map[string]int {
	counts := map[string]int{}
	var lock sync.Mutex
	var all sync.WaitGroup
	jobs := make(chan string, 7)
	for w := 0; w < workers; w++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for word := range jobs {
				lock.Lock()
				counts[strings.ToLower(word)]++
				lock.Unlock()
				runtime.Gosched()
			}
		}()
	}
	for _, word := range words {
		jobs <- word
	}
	close(jobs)
	all.Wait()
	return counts
}

var errTooDeep = errors.New("too deep")

func dive(depth int) (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = fmt.Errorf("depth %d: %v: %w", depth, what, errTooDeep)
		}
	}()
	var list []int
	if depth == 0 {
		return fmt.Errorf("%d", list[depth])
	}
	if err := dive(depth - 1); err != nil && depth%4 == 0 {
		panic(len(err.Error()))
	} else {
		return err
	}
}

func main() {
	text := strings.Fields(strings.Repeat("Alle meine Entchen schwimmen auf dem See schwimmen auf dem See ", 30))
	var hash uint32 = 2166136261
	for round := 0; round < 12; round++ {
		found := primes(30 + round*3)
		fmt.Println(round, "prime", found[len(found)-1])

		counts := count(text, 4+round)
		var keys []string
		for key := range counts {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		for _, key := range keys {
			fmt.Printf("%s=%d ", key, counts[key])
		}
		fmt.Println()

		var root *tree
		for n := 0; n < 3000; n++ {
			hash = (hash ^ uint32(n)) * 16777619
			root = root.put(int(hash % 10007))
		}
		sum, nodes := 0, 0
		root.walk(func(key int) { nodes++; sum = (sum*31 + key) % 1000003 })
		fmt.Println("tree", nodes, sum)

		err := dive(9)
		fmt.Println(err, errors.Is(err, errTooDeep))

		// Sleepers wake in the order of their times, and a ticker beside them counts.
		woken := make(chan int)
		for n := 4; n >= 1; n-- {
			go func(n int) {
				time.Sleep(time.Duration(n*20) * time.Millisecond)
				woken <- n
			}(n)
		}
		began := time.Now()
		ticker := time.NewTicker(5 * time.Millisecond)
		order, ticks := []int{}, 0
		timeout := time.After(time.Minute)
		for len(order) < 4 {
			select {
			case n := <-woken:
				order = append(order, n)
			case <-ticker.C:
				ticks++
			case <-timeout:
				panic("a sleeper did not wake")
			}
		}
		ticker.Stop()
		sort.Ints(order)
		fmt.Println("woken", order, ticks > 0, time.Since(began) >= 80*time.Millisecond)
		runtime.GC()
	}
}
