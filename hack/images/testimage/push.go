// SPDX-License-Identifier: Apache-2.0

package testimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
)

// Push uploads an image of one layer with these files (by path, without the leading slash) to the registry at a URL, by the protocol of the OCI
// distribution specification.
func Push(ctx context.Context, registry, repository, tag string, files map[string]string) error {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	for path, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := io.WriteString(archive, content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	base := strings.TrimSuffix(registry, "/") + "/v2/" + repository
	digest := func(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }
	config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, runtime.GOARCH, digest(layer.Bytes()))
	for _, blob := range [][]byte{config, layer.Bytes()} {
		if err := send(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+digest(blob), "application/octet-stream", blob); err != nil {
			return err
		}
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, manifestType, digest(config), len(config), digest(layer.Bytes()), layer.Len())
	return send(ctx, http.MethodPut, base+"/manifests/"+tag, manifestType, manifest)
}

func send(ctx context.Context, method, url, kind string, data []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", kind)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s %s: %s", method, url, response.Status)
	}
	return nil
}
