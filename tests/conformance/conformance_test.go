// Package conformance runs the Gateway API's official suite, unmodified, against Weir.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	// The backends of the suite: tests/cluster/run builds and runs them.
	_ "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

// TestConformance takes the suite's own flags, see tests/conformance/run.
func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
