package sample

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// NodeApp returns a Node.js application on the clean base. Two of its dependencies are
// known to be exploited: mongo-express 0.53.0 (CVE-2019-10758, fixed in 0.54.0) and
// jquery 3.4.1 (CVE-2020-11023, fixed in 3.5.0). lodash 4.17.20 has CVE-2021-23337,
// fixed in 4.17.21. Nothing is known against the others.
func NodeApp(o Options) (v1.Image, error) {
	files, err := nodeFiles("shop", "1.4.0", [][3]string{
		{"mongo-express", "0.53.0", "MIT"},
		{"jquery", "3.4.1", "MIT"},
		{"lodash", "4.17.20", "MIT"},
		{"ms", "2.1.3", "MIT"},
		{"lru-cache", "11.1.0", "ISC"},
	})
	if err != nil {
		return nil, err
	}
	return wolfi(o, "shop", clean(), files)
}

// nodeFiles lays out an application as npm does: a package.json, a lock file, and
// node_modules. Dependencies are name, version and licence.
func nodeFiles(name, version string, dependencies [][3]string) ([]File, error) {
	wanted := map[string]string{}
	locked := map[string]any{}
	var files []File
	for _, d := range dependencies {
		place := "node_modules/" + d[0]
		wanted[d[0]] = d[1]
		locked[place] = map[string]any{
			"version": d[1], "license": d[2],
			"resolved": fmt.Sprintf("https://registry.npmjs.org/%s/-/%s-%s.tgz", d[0], d[0], d[1]),
		}
		manifest, err := json.MarshalIndent(map[string]any{"name": d[0], "version": d[1], "license": d[2], "main": "index.js"}, "", "  ")
		if err != nil {
			return nil, err
		}
		files = append(files,
			File{Path: "app/" + place + "/package.json", Data: manifest},
			File{Path: "app/" + place + "/index.js", Data: placeholder(d[0], d[1], "index.js")})
	}
	root := map[string]any{"name": name, "version": version, "dependencies": wanted}
	manifest, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, err
	}
	locked[""] = root
	lock, err := json.MarshalIndent(map[string]any{"name": name, "version": version, "lockfileVersion": 3, "requires": true, "packages": locked}, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(files, File{Path: "app/package.json", Data: manifest}, File{Path: "app/package-lock.json", Data: lock}), nil
}

// JavaApp returns a Java application on the clean base that brings log4j-core 2.14.1
// (CVE-2021-44228, known to be exploited, fixed in 2.15.0). Its log4j-api, of the
// same version, is not affected.
func JavaApp(o Options) (v1.Image, error) {
	var files []File
	for _, a := range [][3]string{
		{"org.apache.logging.log4j", "log4j-core", "2.14.1"},
		{"org.apache.logging.log4j", "log4j-api", "2.14.1"},
		{"com.example.shop", "orders", "1.4.0"},
	} {
		archive, err := jar(a[0], a[1], a[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a[1], err)
		}
		files = append(files, File{Path: fmt.Sprintf("app/lib/%s-%s.jar", a[1], a[2]), Data: archive})
	}
	return wolfi(o, "orders", clean(), files)
}

// jar returns an archive as Maven makes it, with no classes in it.
func jar(group, artifact, version string) ([]byte, error) {
	place := fmt.Sprintf("META-INF/maven/%s/%s/", group, artifact)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range []struct{ name, text string }{
		{"META-INF/MANIFEST.MF", fmt.Sprintf("Manifest-Version: 1.0\r\nCreated-By: Apache Maven 3.6.3\r\nImplementation-Title: %s\r\n"+
			"Implementation-Version: %s\r\nImplementation-Vendor-Id: %s\r\n\r\n", artifact, version, group)},
		{place + "pom.xml", fmt.Sprintf("<project><modelVersion>4.0.0</modelVersion><groupId>%s</groupId><artifactId>%s</artifactId>"+
			"<version>%s</version></project>\n", group, artifact, version)},
		{place + "pom.properties", fmt.Sprintf("version=%s\ngroupId=%s\nartifactId=%s\n", version, group, artifact)},
	} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: Created})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Large returns an image as big as that of an application on a full distribution:
// 240 MiB in twelve layers that unpack to 680, 20 thousand entries, 586 packages. It
// takes some seconds and as many hundred MiB of memory. Options other than those of
// size are kept.
func Large(o Options) (v1.Image, error) {
	if o.Filler == 0 {
		o.Filler, o.FillerLayers = 240<<20, 8
	}
	if o.Packages == 0 {
		o.Packages = 570
	}
	return wolfi(o, "shop-suite", clean())
}
