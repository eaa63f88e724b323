// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// listing is the result of a command: rows of cells for people, a value with stable JSON names for machines.
type listing struct {
	header []string
	wide   int // the last wide columns are shown with -o wide only
	rows   [][]string
	value  any
}

// print writes l in the format that the user chose.
func (env *environment) print(l listing) error {
	switch env.output {
	case "json":
		enc := json.NewEncoder(env.out)
		enc.SetIndent("", "  ")
		return enc.Encode(l.value)
	case "yaml":
		data, err := yaml.Marshal(l.value)
		if err != nil {
			return err
		}
		_, err = env.out.Write(data)
		return err
	case "table", "wide":
	default:
		return fmt.Errorf("output %q is none of table, wide, json, yaml", env.output)
	}
	n := len(l.header)
	if env.output == "table" {
		n -= l.wide
	}
	w := tabwriter.NewWriter(env.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(l.header[:n], "\t"))
	for _, r := range l.rows {
		fmt.Fprintln(w, strings.Join(r[:n], "\t"))
	}
	return w.Flush()
}
