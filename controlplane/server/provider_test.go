// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	certutil "k8s.io/client-go/util/cert"
)

// The OpenID provider is zitadel's library with the storage of its example, in a process of its own: discovery, key set, login and token end point
// are its code, not ours. What is ours is the users' claims, and a key that can be replaced.
const (
	// childProvider makes the test binary an OpenID provider.
	childProvider = "FAIRLEAD_TEST_OPENID_PROVIDER"
	clientID      = "fairlead-kubectl"
	clientSecret  = "between-us"
	redirectURL   = "http://127.0.0.1:18000/callback" // where the code goes; nobody listens, the test reads it from the redirection
	userPassword  = "verysecure"
)

// users are who can log in, by their name, with what is claimed about them.
var users = map[string]*storage.User{
	"ann":     {ID: "id-ann", Username: "ann", Password: userPassword, Email: "ann@example.com", EmailVerified: true},
	"mallory": {ID: "id-mallory", Username: "mallory", Password: userPassword, Email: "ann@example.com"},
}

type directory struct{}

func (directory) GetUserByID(id string) *storage.User         { return users[strings.TrimPrefix(id, "id-")] }
func (directory) GetUserByUsername(name string) *storage.User { return users[name] }
func (directory) ExampleClientID() string                     { return clientID }

// identities is the example's storage with keys that can be replaced and claims that kubectl's users have.
type identities struct {
	*storage.Storage
	mu  sync.Mutex
	key *rsa.PrivateKey
	id  int
}

// rotate replaces the signing key; the old one leaves the key set at once, as after a leak.
func (i *identities) rotate() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.key, i.id = key, i.id+1
	return nil
}

func (i *identities) SigningKey(context.Context) (op.SigningKey, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return signingKey{fmt.Sprint("key-", i.id), i.key}, nil
}

func (i *identities) KeySet(context.Context) ([]op.Key, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return []op.Key{publicKey{fmt.Sprint("key-", i.id), i.key}}, nil
}

// SetUserinfoFromRequest puts the claims into an ID token.
func (i *identities) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, _ []string) error {
	user := directory{}.GetUserByID(request.GetSubject())
	info.Subject, info.Email, info.EmailVerified = user.ID, user.Email, oidc.Bool(user.EmailVerified)
	info.AppendClaims("roles", []string{"ops", "on-call"})
	info.AppendClaims("team", map[string]string{"name": "harbour"})
	return nil
}

type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return k.id }

type publicKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k publicKey) ID() string                         { return k.id }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return &k.key.PublicKey }

// serveProvider is the provider's process. It prints its URL and its certificate's authority as one line of JSON.
func serveProvider() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ip := net.IPv4(127, 0, 0, 1)
	cert, key, err := certutil.GenerateSelfSignedCertKey(ip.String(), []net.IP{ip}, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	storage.RegisterClients(storage.WebClient(clientID, clientSecret, redirectURL))
	users := &identities{Storage: storage.NewStorage(directory{})}
	if err := users.rotate(); err != nil {
		return err
	}
	issuer := "https://" + l.Addr().String()
	provider, err := op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte(issuer)), CodeMethodS256: true, AuthMethodPost: true}, users, op.StaticIssuer(issuer),
		op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Who are you?") })
	callback := op.AuthCallbackURL(provider)
	mux.Handle("POST /login/username", op.NewIssuerInterceptor(provider.IssuerFromRequest).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("id")
		if err := users.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Redirect(w, r, callback(r.Context(), id), http.StatusFound)
	}))
	mux.HandleFunc("POST /rotate", func(w http.ResponseWriter, _ *http.Request) {
		if err := users.rotate(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.Handle("/", provider)
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	if err := json.NewEncoder(os.Stdout).Encode(&provided{URL: issuer, CA: string(cert)}); err != nil {
		return err
	}
	return server.ServeTLS(l, "", "")
}

// provided is what the provider's process says about itself.
type provided struct {
	URL, CA string
	cmd     *exec.Cmd
}

// startProvider runs an OpenID provider until the test ends.
func startProvider(t *testing.T) *provided {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childProvider+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &provided{cmd: cmd}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the OpenID provider was never ready: %v", err)
	}
	if err := json.Unmarshal(line, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *provided) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // the second time it says that it was waited for
}

// client is a browser: it keeps cookies and stops at the redirection to redirectURL.
func (p *provided) client(t *testing.T) *http.Client {
	t.Helper()
	roots, err := certutil.NewPoolFromBytes([]byte(p.CA))
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), redirectURL) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
}

// login goes through the authorization-code flow as user and returns the ID token.
func (p *provided) login(t *testing.T, user string) string {
	t.Helper()
	browser := p.client(t)
	page, err := browser.Get(p.URL + "/authorize?" + url.Values{
		"client_id": {clientID}, "redirect_uri": {redirectURL}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	page.Body.Close()
	request := page.Request.URL.Query().Get("authRequestID")
	if request == "" {
		t.Fatalf("the provider led to %s, want its login page", page.Request.URL)
	}
	back, err := browser.PostForm(p.URL+"/login/username", url.Values{"username": {user}, "password": {userPassword}, "id": {request}})
	if err != nil {
		t.Fatal(err)
	}
	back.Body.Close()
	target, err := back.Location()
	if err != nil {
		t.Fatalf("after the login of %s: %s, %v", user, back.Status, err)
	}
	answer, err := browser.PostForm(p.URL+"/oauth/token", url.Values{"grant_type": {"authorization_code"}, "code": {target.Query().Get("code")},
		"redirect_uri": {redirectURL}, "client_id": {clientID}, "client_secret": {clientSecret}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var tokens struct {
		IDToken string `json:"id_token"`
		Error   string `json:"error_description"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&tokens); err != nil || tokens.IDToken == "" {
		t.Fatalf("no ID token for %s: %s %v", user, tokens.Error, err)
	}
	return tokens.IDToken
}

func (p *provided) rotate(t *testing.T) {
	t.Helper()
	r, err := p.client(t).Post(p.URL+"/rotate", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("rotate the provider's key: %s", r.Status)
	}
}
