// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"regexp"
	"strings"
	"sync"

	celgo "github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// baseEnvironment is what all expressions see; making it takes tens of milliseconds.
var baseEnvironment = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// webhookCompiler serves match conditions, which have no variables and so share nothing between objects.
var webhookCompiler = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(baseEnvironment()) })

// compiler compiles the expressions of one object, as the admission plugins later do, to find those that would never run. It is made when the
// first expression comes.
type compiler struct {
	params    bool
	variables bool
	made      plugincel.Compiler
	composed  *plugincel.CompositedCompiler
	err       error
}

// newCompiler returns a compiler for expressions that may use parameters of the kind, and variables.
func newCompiler(kind *v1.ParamKind, variables bool) *compiler {
	return &compiler{params: kind != nil, variables: variables}
}

func (c *compiler) get() (plugincel.Compiler, error) {
	if c.made == nil && c.err == nil {
		if c.variables {
			c.composed, c.err = plugincel.NewCompositedCompiler(baseEnvironment())
			c.made = c.composed
		} else {
			c.made = webhookCompiler()
		}
	}
	return c.made, c.err
}

func (c *compiler) options(authorizer, patches bool) plugincel.OptionalVariableDeclarations {
	return plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: authorizer, HasPatchTypes: patches}
}

// check reports an expression that does not compile, or to another type than it must.
func (c *compiler) check(r *rule.Report, at *field.Path, text string, e plugincel.ExpressionAccessor, authorizer, patches bool) {
	made, err := c.get()
	if err != nil {
		r.Add(field.InternalError(at, err))
		return
	}
	report(r, at, text, made.CompileCELExpression(e, c.options(authorizer, patches), environment.NewExpressions).Error)
}

// variable compiles v and makes it known to the expressions after it.
func (c *compiler) variable(r *rule.Report, at *field.Path, v v1.Variable) {
	if _, err := c.get(); err != nil {
		r.Add(field.InternalError(at, err))
		return
	}
	result := c.composed.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, c.options(true, false), environment.NewExpressions)
	if result.Error != nil && result.OutputType == nil {
		// What refers to it is not to blame.
		defer c.composed.CompileAndStoreVariable(anything{v.Name}, c.options(true, false), environment.NewExpressions)
	}
	report(r, at, v.Expression, result.Error)
}

func (c *compiler) condition(r *rule.Report, at *field.Path, m v1.MatchCondition) {
	c.check(r, at, m.Expression, (*matchconditions.MatchCondition)(&m), true, false)
}

func report(r *rule.Report, at *field.Path, text string, err *cel.Error) {
	if err == nil {
		return
	}
	if err.Type == cel.ErrorTypeInternal {
		r.Add(field.InternalError(at, err))
		return
	}
	r.Invalid(at, text, err.Error())
}

// anything stands for a variable whose own expression is wrong.
type anything struct{ name string }

func (a anything) GetName() string            { return a.name }
func (a anything) GetExpression() string      { return "dyn(null)" }
func (a anything) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.AnyType, celgo.DynType} }

var identifierForm = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

// identifier: a name that CEL takes and does not keep for itself.
func identifier(name string) bool {
	const reserved = " true false null in as break const continue else for function if import let loop package namespace return var void while "
	return identifierForm.MatchString(name) && !strings.Contains(reserved, " "+name+" ")
}
