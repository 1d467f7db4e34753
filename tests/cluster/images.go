package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// imageTable says which binary of this machine stands for a container image: the key is how the image's name begins.
type imageTable map[string]string

// add takes an entry PREFIX=BINARY.
func (t imageTable) add(entry string) error {
	prefix, binary, ok := strings.Cut(entry, "=")
	if !ok || prefix == "" || binary == "" {
		return fmt.Errorf("image '%s' is not PREFIX=BINARY", entry)
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	if info, err := os.Stat(binary); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("image '%s': %s is no executable file", prefix, binary)
	}
	t[prefix] = binary
	return nil
}

// binary gives the entry with the longest prefix.
func (t imageTable) binary(image string) (string, bool) {
	longest, found := "", false
	for prefix := range t {
		if strings.HasPrefix(image, prefix) && len(prefix) >= len(longest) {
			longest, found = prefix, true
		}
	}
	return t[longest], found
}

// arguments are the flags that make the same table again.
func (t imageTable) arguments() []string {
	var flags []string
	for prefix, binary := range t {
		flags = append(flags, "--image", prefix+"="+binary)
	}
	return flags
}
