// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decodeQuery sets the fields of out, a pointer to an options struct, from the query parameters that bear their JSON names. Parameters that out
// does not have are left alone; of a repeated one the first counts, except for lists. An empty boolean means true ("?follow").
func decodeQuery(values url.Values, out any) error {
	v := reflect.ValueOf(out).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		given, ok := values[name]
		if name == "" || !ok || len(given) == 0 {
			continue
		}
		if err := setField(v.Field(i), given); err != nil {
			return fmt.Errorf("query parameter %s: %w", name, err)
		}
	}
	return nil
}

func setField(f reflect.Value, given []string) error {
	if f.Type() == reflect.TypeFor[*metav1.Time]() {
		at, err := time.Parse(time.RFC3339, given[0])
		if err != nil {
			return fmt.Errorf("%q is not a time in RFC 3339 format", given[0])
		}
		f.Set(reflect.ValueOf(&metav1.Time{Time: at}))
		return nil
	}
	switch f.Kind() {
	case reflect.Pointer:
		if given[0] == "" {
			return nil
		}
		target := reflect.New(f.Type().Elem())
		if err := setField(target.Elem(), given); err != nil {
			return err
		}
		f.Set(target)
	case reflect.Slice:
		s := reflect.MakeSlice(f.Type(), 0, len(given))
		for _, text := range given {
			for part := range strings.SplitSeq(text, ",") {
				if f.Type().Elem().Kind() == reflect.String {
					part = text
				}
				e := reflect.New(f.Type().Elem()).Elem()
				if err := setField(e, []string{part}); err != nil {
					return err
				}
				s = reflect.Append(s, e)
				if f.Type().Elem().Kind() == reflect.String {
					break
				}
			}
		}
		f.Set(s)
	case reflect.String:
		f.SetString(given[0])
	case reflect.Bool:
		switch strings.ToLower(given[0]) {
		case "", "true", "1":
			f.SetBool(true)
		case "false", "0":
			f.SetBool(false)
		default:
			// Kubernetes reads any other word as true.
			f.SetBool(true)
		}
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(given[0], 10, f.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number", given[0])
		}
		f.SetInt(n)
	default:
		return fmt.Errorf("no way to read a %s", f.Type())
	}
	return nil
}
