package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/configs/clients"
)

func clientConfigCommand(g *global) *cobra.Command {
	var setup clients.Setup
	cmd := &cobra.Command{
		Use:   "client-config " + strings.Join(clients.Names(), "|"),
		Short: "Print how to point a client at the gateway, with no way around it",
		Long: `Print the files that point a client at the gateway, and where they belong. None of them
falls back to the registry when the gateway refuses an image: that would be a way around it.`,
		Example:   "  sluice client-config containerd --gateway https://gate.example.com",
		ValidArgs: clients.Names(),
		Args:      cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(setup.Upstreams) == 0 {
				c, err := g.load()
				if err != nil {
					return err
				}
				for _, u := range c.Upstreams {
					setup.Upstreams = append(setup.Upstreams, u.Name)
				}
			}
			guide, err := clients.Render(args[0], setup)
			if err != nil {
				return usage("%w", err)
			}
			if g.output == "json" {
				return printJSON(cmd.OutOrStdout(), guide)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), guide)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&setup.Gateway, "gateway", "http://127.0.0.1:8080", "URL at which clients reach the gateway")
	f.StringSliceVar(&setup.Upstreams, "upstream", nil, "registry to reach through it (default: those of the configuration)")
	f.StringVar(&setup.CAFile, "ca-file", "", "where on the client the authority of the gateway's certificate lies")
	return cmd
}
