// Command summary turns the suite's reports of both channels into results.yaml, of which the README's table is made; or,
// without --write, holds that a run's results are the ones that results.yaml tells of, date and commit apart.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	report "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/yaml"
)

// results is what the README tells.
type results struct {
	// Of the suite.
	Suite string `json:"suite"`
	// Of Weir.
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Of the later run.
	Date     string             `json:"date"`
	Channels map[string]channel `json:"channels"`
}

type channel struct {
	Profiles []profile `json:"profiles"`
	// Tests that count for no profile yet, and passed.
	Provisional int `json:"provisional"`
}

type profile struct {
	Name     string  `json:"name"`
	Core     figures `json:"core"`
	Extended figures `json:"extended"`
	// Extended features that are claimed, and those of the profile that are not.
	Features    int      `json:"features"`
	Unsupported []string `json:"unsupported,omitempty"`
}

type figures struct {
	Passed  int      `json:"passed"`
	Failed  []string `json:"failed,omitempty"`
	Skipped []string `json:"skipped,omitempty"`
}

func main() {
	from := flag.String("from", "", "folder of the reports")
	file := flag.String("results", "", "results.yaml")
	write := flag.Bool("write", false, "write it")
	flag.Parse()
	if err := run(*from, *file, *write); err != nil {
		fmt.Fprintf(os.Stderr, "conformance: %v\n", err)
		os.Exit(1)
	}
}

func run(from, file string, write bool) error {
	seen, err := read(from)
	if err != nil {
		return err
	}
	tell(seen)
	if write {
		text, err := yaml.Marshal(seen)
		if err != nil {
			return err
		}
		text = append([]byte("# Written by tests/conformance/summarize from the reports of tests/conformance/run.\n"), text...)
		return os.WriteFile(file, text, 0o644)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var told results
	if err := yaml.UnmarshalStrict(text, &told); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if told.Suite != seen.Suite || !reflect.DeepEqual(told.Channels, seen.Channels) {
		return errors.New("the results are not those of " + file +
			"; if the new ones are right, write them and the README anew: WEIR_BLESS=1 tests/conformance/summarize && WEIR_BLESS=1 cargo test --test docs")
	}
	return nil
}

// read gives what the reports of both channels say; they have to be of the same Weir.
func read(folder string) (results, error) {
	seen := results{Channels: map[string]channel{}}
	for _, name := range []string{"standard", "experimental"} {
		text, err := os.ReadFile(filepath.Join(folder, name+".yaml"))
		if err != nil {
			return seen, fmt.Errorf("%w; run tests/conformance/run --channel %s", err, name)
		}
		var told report.ConformanceReport
		if err := yaml.Unmarshal(text, &told); err != nil {
			return seen, fmt.Errorf("%s.yaml: %w", name, err)
		}
		if told.GatewayAPIChannel != name {
			return seen, fmt.Errorf("%s.yaml is a report of channel %s", name, told.GatewayAPIChannel)
		}
		version, commit, _ := strings.Cut(told.Version, "-")
		if seen.Version != "" && (seen.Version != version || seen.Commit != commit) {
			return seen, fmt.Errorf("the reports are of different commits, %s and %s", seen.Commit, commit)
		}
		seen.Suite, seen.Version, seen.Commit = told.GatewayAPIVersion, version, commit
		if day, _, _ := strings.Cut(told.Date, "T"); day > seen.Date {
			seen.Date = day
		}
		var c channel
		c.Provisional = len(told.SucceededProvisionalTests)
		for _, p := range told.ProfileReports {
			one := profile{Name: p.Name, Core: of(p.Core)}
			if p.Extended != nil {
				one.Extended = of(p.Extended.Status)
				one.Features = len(p.Extended.SupportedFeatures)
				one.Unsupported = slices.Sorted(slices.Values(p.Extended.UnsupportedFeatures))
			}
			c.Profiles = append(c.Profiles, one)
		}
		slices.SortFunc(c.Profiles, func(a, b profile) int { return strings.Compare(a.Name, b.Name) })
		seen.Channels[name] = c
	}
	return seen, nil
}

func of(status report.Status) figures {
	return figures{
		Passed:  int(status.Passed),
		Failed:  slices.Sorted(slices.Values(status.FailedTests)),
		Skipped: slices.Sorted(slices.Values(status.SkippedTests)),
	}
}

func tell(seen results) {
	for _, name := range []string{"standard", "experimental"} {
		for _, p := range seen.Channels[name].Profiles {
			fmt.Printf("conformance: %s %s: core %d passed, %d failed, %d skipped; extended %d passed, %d failed, %d skipped; %d of %d features\n",
				name, p.Name, p.Core.Passed, len(p.Core.Failed), len(p.Core.Skipped),
				p.Extended.Passed, len(p.Extended.Failed), len(p.Extended.Skipped), p.Features, p.Features+len(p.Unsupported))
		}
	}
}
