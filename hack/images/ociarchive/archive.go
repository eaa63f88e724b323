// SPDX-License-Identifier: Apache-2.0

// Package ociarchive writes container images as OCI layout tar archives, byte for byte the same for the same input. It is
// for images of a few files: one uncompressed layer, no base image, no registry.
package ociarchive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// File is one entry of the image's only layer.
type File struct {
	Path     string // absolute, in the image
	Mode     int64  // permission bits, with setuid, setgid and sticky
	Data     []byte
	Linkname string // a symbolic link when not empty
	Dir      bool
	UID, GID int
}

// Image is what goes into an archive.
type Image struct {
	Name         string // full reference with registry and tag: example.com/app:1
	Architecture string // GOARCH
	Files        []File // parents are added as directories of mode 0755
	Entrypoint   []string
	Cmd          []string
	Env          []string
	User         string
	WorkingDir   string
	Volumes      []string
	StopSignal   string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// Write writes the archive of one or more images to w.
func Write(w io.Writer, images ...Image) error {
	blobs := map[string][]byte{}
	add := func(mediaType string, data []byte) descriptor {
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		blobs[name] = data
		return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(data)}
	}
	var manifests []descriptor
	for _, image := range images {
		layer, err := layerTar(image.Files)
		if err != nil {
			return fmt.Errorf("image %s: %w", image.Name, err)
		}
		layerDescriptor := add("application/vnd.oci.image.layer.v1.tar", layer)
		config, err := json.Marshal(map[string]any{
			"architecture": image.Architecture, "os": "linux",
			"config": dropEmpty(map[string]any{
				"Entrypoint": image.Entrypoint, "Cmd": image.Cmd, "Env": image.Env, "User": image.User, "WorkingDir": image.WorkingDir,
				"Volumes": set(image.Volumes), "StopSignal": image.StopSignal,
			}),
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerDescriptor.Digest}},
		})
		if err != nil {
			return err
		}
		manifest, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
			"config": add("application/vnd.oci.image.config.v1+json", config),
			"layers": []descriptor{layerDescriptor},
		})
		if err != nil {
			return err
		}
		d := add("application/vnd.oci.image.manifest.v1+json", manifest)
		d.Annotations = map[string]string{"io.containerd.image.name": image.Name, "org.opencontainers.image.ref.name": image.Name}
		d.Platform = map[string]string{"architecture": image.Architecture, "os": "linux"}
		manifests = append(manifests, d)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
	if err != nil {
		return err
	}
	files := []File{{Path: "/oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {Path: "/index.json", Mode: 0o644, Data: index}}
	for name, data := range blobs {
		files = append(files, File{Path: "/blobs/sha256/" + name, Mode: 0o644, Data: data})
	}
	return writeTar(w, files)
}

func layerTar(files []File) ([]byte, error) {
	var out bytes.Buffer
	err := writeTar(&out, files)
	return out.Bytes(), err
}

// writeTar writes files sorted by path, with their parent directories, all dated 1970.
func writeTar(w io.Writer, files []File) error {
	byPath := map[string]File{}
	for _, file := range files {
		if !path.IsAbs(file.Path) {
			return fmt.Errorf("path %q is not absolute", file.Path)
		}
		file.Path = path.Clean(file.Path)
		for dir := path.Dir(file.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = File{Path: dir, Mode: 0o755, Dir: true}
			}
		}
		byPath[file.Path] = file
	}
	sorted := make([]File, 0, len(byPath))
	for _, file := range byPath {
		sorted = append(sorted, file)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	archive := tar.NewWriter(w)
	for _, file := range sorted {
		header := &tar.Header{Name: strings.TrimPrefix(file.Path, "/"), Mode: file.Mode, Uid: file.UID, Gid: file.GID, Format: tar.FormatPAX, Typeflag: tar.TypeReg}
		switch {
		case file.Dir:
			header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		case file.Linkname != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, file.Linkname
		default:
			header.Size = int64(len(file.Data))
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if header.Size > 0 {
			if _, err := archive.Write(file.Data); err != nil {
				return err
			}
		}
	}
	return archive.Close()
}

func dropEmpty(m map[string]any) map[string]any {
	for key, value := range m {
		switch v := value.(type) {
		case string:
			if v == "" {
				delete(m, key)
			}
		case []string:
			if len(v) == 0 {
				delete(m, key)
			}
		case map[string]struct{}:
			if len(v) == 0 {
				delete(m, key)
			}
		}
	}
	return m
}

func set(names []string) map[string]struct{} {
	out := map[string]struct{}{}
	for _, name := range names {
		out[name] = struct{}{}
	}
	return out
}
