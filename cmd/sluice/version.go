package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker; a plain go build reads it off the build's own record.
var version = ""

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func versionCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of sluice and of what its verdicts depend on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := map[string]string{"sluice": versionText(), "go": runtime.Version()}
			modules := map[string]string{"github.com/anchore/syft": "syft", "github.com/anchore/grype": "grype", "github.com/open-policy-agent/opa": "opa"}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, m := range info.Deps {
					if name, ok := modules[m.Path]; ok {
						v[name] = m.Version
					}
				}
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), v)
			}
			for _, name := range []string{"sluice", "syft", "grype", "opa", "go"} {
				fmt.Fprintf(cmd.OutOrStdout(), "%-7s%s\n", name, v[name])
			}
			return nil
		},
	}
}
