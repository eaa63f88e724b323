// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// defaultConfigFile is read when it exists and no other is named.
const defaultConfigFile = "/etc/fairlead/config.yaml"

// withConfigFile gives cmd the flag --config: a YAML file whose keys are cmd's flags. What is given on the command line wins.
//
//	node-ip: [10.0.0.7, "fd00::7"]
//	load-balancer-pool: 192.0.2.0/24
func withConfigFile(cmd *cobra.Command) *cobra.Command {
	var path string
	cmd.Flags().StringVar(&path, "config", "", "YAML file with flags as keys; the command line wins (default "+defaultConfigFile+" if it exists)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		file := path
		if file == "" {
			file = defaultConfigFile
		}
		b, err := os.ReadFile(file)
		if path == "" && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		if err := applyConfig(cmd.Flags(), b); err != nil {
			return fmt.Errorf("configuration %s: %w", file, err)
		}
		return nil
	}
	return cmd
}

// applyConfig sets the flags that the YAML in b names and the command line does not. All errors are returned at once.
func applyConfig(flags *pflag.FlagSet, b []byte) error {
	var values map[string]any
	if err := yaml.UnmarshalStrict(b, &values); err != nil {
		return err
	}
	var errs []error
	for name, value := range values {
		f := flags.Lookup(name)
		if f == nil || name == "config" || name == "help" {
			errs = append(errs, fmt.Errorf("%q is no flag of this command; --help lists them", name))
			continue
		}
		if f.Changed {
			continue
		}
		text, err := flagText(value)
		if err == nil {
			err = flags.Set(name, text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// flagText writes a YAML value as it would stand on the command line: lists with commas, maps as KEY=VALUE.
func flagText(value any) (string, error) {
	switch v := value.(type) {
	case string, bool:
		return fmt.Sprint(v), nil
	case float64: // every number, as JSON has it
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case []any:
		var parts []string
		for _, item := range v {
			text, err := flagText(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		var parts []string
		for key, item := range v {
			text, err := flagText(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, key+"="+text)
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("want a text, a number, true or false, a list or a map, not %v", value)
}
