// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/controlplane/store"
)

// etcdOptions say which store a command works on.
type etcdOptions struct {
	dataDir string
	store   store.Config
	output  string
}

// config returns the store's configuration: the embedded member of dataDir unless endpoints are given.
func (o *etcdOptions) config() store.Config {
	cfg := o.store
	cfg.DataDir = filepath.Join(o.dataDir, "server", "etcd")
	return cfg
}

func newEtcdCommand() *cobra.Command {
	var o etcdOptions
	cmd := &cobra.Command{
		Use:   "etcd",
		Short: "Back up, restore and look after the cluster's store",
		Example: `  fairlead etcd snapshot save /var/backups/cluster.db
  fairlead etcd snapshot status /var/backups/cluster.db
  fairlead etcd snapshot restore /var/backups/cluster.db     (with the server stopped)
  fairlead etcd member list`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.dataDir, "data-dir", "/var/lib/fairlead", "the server's data directory")
	f.StringSliceVar(&o.store.Endpoints, "etcd-endpoints", nil, "URLs of an external etcd cluster instead of the embedded member")
	f.StringVar(&o.store.CertFile, "cert", "", "client certificate for --etcd-endpoints")
	f.StringVar(&o.store.KeyFile, "key", "", "client key for --etcd-endpoints")
	f.StringVar(&o.store.CAFile, "cacert", "", "CA that signed the certificates of --etcd-endpoints")
	f.StringVarP(&o.output, "output", "o", "", "output format: json")
	cmd.AddCommand(o.snapshotCommand(), o.memberCommand())
	return cmd
}

func (o *etcdOptions) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Save, restore and check snapshots"}
	cmd.AddCommand(&cobra.Command{
		Use:   "save FILE",
		Short: "Write all of the running store into FILE",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := store.SaveSnapshot(cmd.Context(), o.config(), args[0])
			if err != nil {
				return err
			}
			return o.printSnapshot(cmd.OutOrStdout(), status)
		},
	}, &cobra.Command{
		Use:   "status FILE",
		Short: "Check a snapshot and say what it holds",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := store.StatusOfSnapshot(args[0])
			if err != nil {
				return err
			}
			return o.printSnapshot(cmd.OutOrStdout(), status)
		},
	}, &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the store of a stopped server from FILE; move its old one (server/etcd/member) away first",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return store.RestoreSnapshot(o.config(), args[0])
		},
	})
	return cmd
}

func (o *etcdOptions) printSnapshot(out io.Writer, s store.SnapshotStatus) error {
	if o.output == "json" {
		return json.NewEncoder(out).Encode(s)
	}
	_, err := fmt.Fprintf(out, "revision %d, %d keys, %d KiB, hash %08x\n", s.Revision, s.Keys, s.Bytes>>10, s.Hash)
	return err
}

func (o *etcdOptions) memberCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "member", Short: "List, add and remove members of the etcd cluster"}
	verb := func(use, short string, args cobra.PositionalArgs, do func(*cobra.Command, []string) ([]store.Member, error)) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			members, err := do(cmd, args)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(members)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tNAME\tPEER URLS\tLEARNER")
			for _, m := range members {
				fmt.Fprintf(w, "%x\t%s\t%v\t%t\n", m.ID, m.Name, m.PeerURLs, m.Learner)
			}
			return w.Flush()
		}}
	}
	cmd.AddCommand(
		verb("list", "List the members", cobra.NoArgs, func(cmd *cobra.Command, _ []string) ([]store.Member, error) {
			client, err := store.Dial(cmd.Context(), o.config())
			if err != nil {
				return nil, err
			}
			defer client.Close()
			return store.Members(cmd.Context(), client)
		}),
		verb("add PEER-URL", "Announce a member that will join at PEER-URL", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) ([]store.Member, error) {
			client, err := store.Dial(cmd.Context(), o.config())
			if err != nil {
				return nil, err
			}
			defer client.Close()
			return store.AddMember(cmd.Context(), client, args[0])
		}),
		verb("remove ID", "Remove a member, given by its id", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) ([]store.Member, error) {
			id, err := strconv.ParseUint(args[0], 16, 64)
			if err != nil {
				return nil, fmt.Errorf("member id %q: want the hexadecimal number that `member list` shows", args[0])
			}
			client, err := store.Dial(cmd.Context(), o.config())
			if err != nil {
				return nil, err
			}
			defer client.Close()
			return store.RemoveMember(cmd.Context(), client, id)
		}),
	)
	return cmd
}
