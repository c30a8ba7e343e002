// Command uncalled links the module of the vulnerable function, and not the function.
package main

import (
	"fmt"
	"os"

	"golang.org/x/text/unicode/norm"
)

func main() {
	fmt.Println(norm.NFC.String(os.Getenv("LANG")))
}
