// Command called links the vulnerable function.
package main

import (
	"fmt"
	"os"

	"golang.org/x/text/language"
)

func main() {
	fmt.Println(language.ParseAcceptLanguage(os.Getenv("LANG")))
}
