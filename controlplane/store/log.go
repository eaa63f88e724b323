// SPDX-License-Identifier: Apache-2.0

package store

import (
	"runtime"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// newZap returns etcd's logger: warnings and errors go to log as they are, information at verbosity 4.
// Where etcd would end the process (a write that failed half way), only the calling goroutine ends: requests then time out with an error, and
// the member's health check says so, but the process and the nodes it runs live on.
func newZap(log klog.Logger) *zap.Logger {
	return zap.New(core{log: log.WithValues("component", "etcd")}, zap.WithFatalHook(endGoroutine{}))
}

type endGoroutine struct{}

func (endGoroutine) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) { runtime.Goexit() }

// core is a zapcore.Core on top of klog.
type core struct {
	log    klog.Logger
	fields []zapcore.Field
}

const infoVerbosity = 4

func (c core) Enabled(level zapcore.Level) bool {
	switch {
	case level >= zapcore.WarnLevel:
		return true
	case level == zapcore.InfoLevel:
		return c.log.V(infoVerbosity).Enabled()
	}
	return c.log.V(infoVerbosity + 2).Enabled()
}

func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{log: c.log, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(values)
	}
	for _, f := range fields {
		f.AddTo(values)
	}
	kv := make([]any, 0, 2*len(values.Fields))
	for k, v := range values.Fields {
		kv = append(kv, k, v)
	}
	switch {
	case entry.Level >= zapcore.ErrorLevel:
		c.log.Error(nil, entry.Message, kv...)
	case entry.Level == zapcore.WarnLevel:
		c.log.Info(entry.Message, append(kv, "severity", "warning")...)
	case entry.Level == zapcore.InfoLevel:
		c.log.V(infoVerbosity).Info(entry.Message, kv...)
	default:
		c.log.V(infoVerbosity+2).Info(entry.Message, kv...)
	}
	return nil
}

func (core) Sync() error { return nil }
