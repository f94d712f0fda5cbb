// What Go's standard library makes of WASI: lines of standard input, the environment, files and directories below its first argument;
// and how a Go program ends: `letters DIRECTORY`, `letters exit`, `letters panic`.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

type letter struct {
	Number int      `json:"number"`
	Words  []string `json:"words"`
	Length int      `json:"length"`
}

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("an argument says what to do")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "exit":
		os.Exit(41)
	case "panic":
		var letters []letter
		fmt.Println(letters[len(os.Args)])
	}
	directory := filepath.Join(os.Args[1], "letters")
	must(os.MkdirAll(filepath.Join(directory, "sent"), 0o755))
	variables := os.Environ()
	sort.Strings(variables)
	fmt.Println("environment:", strings.Join(variables, " "))

	all, err := os.OpenFile(filepath.Join(directory, "all"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	must(err)
	sum := sha256.New()
	in := bufio.NewReader(os.Stdin)
	number := 0
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF && line == "" {
			break
		}
		if err != io.EOF {
			must(err)
		}
		number++
		line = strings.TrimSuffix(line, "\n")
		io.WriteString(sum, line)
		text, err := json.Marshal(letter{number, strings.Fields(line), len(line)})
		must(err)
		_, err = fmt.Fprintf(all, "%s\n", text)
		must(err)
		fmt.Printf("%d: %d bytes, %x\n", number, len(line), sum.Sum(nil)[:4])
		if number%20 == 0 {
			draft := filepath.Join(directory, "draft")
			must(os.WriteFile(draft, text, 0o600))
			must(os.Rename(draft, filepath.Join(directory, "sent", fmt.Sprint(number))))
		}
	}

	_, err = all.Seek(0, io.SeekStart)
	must(err)
	words, lines := map[string]int{}, 0
	decoder := json.NewDecoder(all)
	for decoder.More() {
		var one letter
		must(decoder.Decode(&one))
		lines++
		for _, word := range one.Words {
			words[word]++
		}
	}
	must(all.Close())
	fmt.Println(lines, "letters,", words["lorem"], "lorem,", len(words), "words")
	must(filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			fmt.Println(strings.TrimPrefix(path, directory), entry.IsDir())
		}
		return err
	}))
	_, err = os.Open(filepath.Join(directory, "nothing"))
	fmt.Println(os.IsNotExist(err), os.Remove(filepath.Join(directory, "sent")) != nil)
	must(os.Truncate(filepath.Join(directory, "all"), 100))
	info, err := os.Stat(filepath.Join(directory, "all"))
	must(err)
	fmt.Println(info.Size(), info.Mode().IsRegular())
}
