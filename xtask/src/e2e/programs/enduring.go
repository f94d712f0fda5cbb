// Hashes in goroutines that hand to one another, prints now and then what it has come to, until a file is there: enduring LINES STOP.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
)

const hashesPerLine = 2000

func main() {
	if len(os.Args) < 3 {
		os.Exit(2)
	}
	most, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(2)
	}
	to, back := make(chan [32]byte), make(chan [32]byte)
	go func() {
		for hash := range to {
			back <- sha256.Sum256(hash[:])
		}
	}()
	seen := map[byte]int{}
	var hash [32]byte
	for line := 1; line <= most; line++ {
		if _, err := os.Stat(os.Args[2]); err == nil {
			return
		}
		for i := 0; i < hashesPerLine; i++ {
			to <- hash
			hash = <-back
			seen[hash[0]]++
		}
		fmt.Printf("%d %x %d\n", line, hash[:8], seen[hash[0]])
	}
}
