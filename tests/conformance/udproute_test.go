// Package conformance runs the UDPRoute tests of the Gateway API's own conformance suite, unmodified.
//
// The suite's base manifests have Gateways for HTTP, which the class istio-udp does not accept. These
// are left out, and so are backends that no UDPRoute test uses.
package conformance

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

const base = "base/manifests.yaml"

// Kept of the base manifests, beside the namespaces: CoreDNS, and a pod for each other namespace,
// because the suite waits for one.
var kept = map[string]bool{"coredns": true, "app-backend-v1": true, "web-backend": true}

func TestUDPRoutes(t *testing.T) {
	options := conformance.DefaultOptions(t)
	manifests, err := baseManifests()
	require.NoError(t, err)
	options.BaseManifests = "udp-" + base
	own := fstest.MapFS{options.BaseManifests: {Data: manifests}}
	options.ManifestFS = []fs.FS{own, &conformance.Manifests}

	of, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	var wanted []suite.ConformanceTest
	for _, test := range tests.ConformanceTests {
		if strings.HasPrefix(test.ShortName, "UDPRoute") {
			wanted = append(wanted, test)
		}
	}
	require.Len(t, wanted, 9)
	of.Setup(t, wanted)
	require.NoError(t, of.Run(t, wanted))
}

// baseManifests gives what is kept of the suite's base manifests.
func baseManifests() ([]byte, error) {
	all, err := conformance.Manifests.ReadFile(base)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for _, document := range bytes.Split(all, []byte("\n---\n")) {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal(document, &object); err != nil {
			return nil, fmt.Errorf("%s: %w", base, err)
		}
		if object.Kind == "Namespace" || kept[object.Metadata.Name] {
			found = append(found, document)
		}
	}
	return bytes.Join(found, []byte("\n---\n")), nil
}
