// Command drive is the traffic of the test cluster's scripts: load that counts everything that goes wrong, HTTPRoutes and
// endpoints by the thousand, and what stands between Weir and the API server. It ends with code 1 when something went wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `drive load --to ADDRESS[,READY-URL]… --host NAME [--hosts N] [--service A,B] [--rate N] [--at-most DURATION]
drive routes --to ADDRESS --count N [--rate N] [--namespace NS] [--gateway NAME] --service A,B
drive slices --count N [--namespace NS] [--host PATTERN]
drive change --to ADDRESS --number N… --address IP --service A [--namespace NS] [--host PATTERN]
drive between --address ADDRESS --to ADDRESS --manner FILE`

// list is a flag that may be given several times, or once with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

type settings struct {
	// Where Weir listens, each with the address of its readiness when there is one.
	targets list
	// Host of the requests; with several hosts a pattern with %d, from 0 to hosts - 1.
	host  string
	hosts int
	// Names of the Services that may answer; of several hosts, the nth is answered by the Service n modulo their number.
	services []string
	// Requests, or routes, begun per second, however long the answers take.
	rate float64
	// The end, whatever happens.
	atMost time.Duration
	// Of objects that are made; the Gateway only of routes.
	namespace, gateway string
	// Which of the slices are changed, and to what; or where to listen.
	numbers list
	address string
	// A file that says how connections are passed on.
	manner string
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	var s settings
	var services string
	flags := flag.NewFlagSet("drive", flag.ExitOnError)
	flags.Var(&s.targets, "to", "ADDRESS:PORT[,READY-URL]: where requests go; a new one only while READY-URL answers 200")
	flags.StringVar(&s.host, "host", "r%d.example.com", "host of the requests, with %d for its number")
	flags.IntVar(&s.hosts, "hosts", 1, "how many hosts there are")
	flags.IntVar(&s.hosts, "count", 1, "how many routes or Services are made")
	flags.StringVar(&services, "service", "", "names of the Services that may answer, separated by commas")
	flags.Float64Var(&s.rate, "rate", 200, "requests or routes per second")
	flags.DurationVar(&s.atMost, "at-most", 10*time.Minute, "when to end at the latest")
	flags.StringVar(&s.namespace, "namespace", "default", "of the objects")
	flags.Var(&s.numbers, "number", "number of a Service whose slice is changed")
	flags.StringVar(&s.address, "address", "", "endpoint that a slice is changed to, or where to listen")
	flags.StringVar(&s.manner, "manner", "", "file that says how to pass connections on: closed, rate=BYTES/S, delay=DURATION, cut=BYTES")
	flags.StringVar(&s.gateway, "gateway", "edge", "of the routes")
	_ = flags.Parse(os.Args[2:])
	verb := os.Args[1]
	lacks := (len(s.targets) == 0 && verb != "slices") || (services == "" && verb != "slices" && verb != "between") ||
		(s.address == "" && (verb == "change" || verb == "between"))
	if lacks || s.rate <= 0 || s.hosts < 1 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	s.services = strings.Split(services, ",")

	// SIGTERM is the way to say that it is enough; what was begun is still waited for and counted.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.atMost)
	defer cancel()
	var good bool
	var err error
	switch verb {
	case "load":
		good, err = load(ctx, s)
	case "routes":
		good, err = routes(ctx, s)
	case "slices":
		good, err = manySlices(ctx, s)
	case "change":
		good, err = change(ctx, s)
	case "between":
		good, err = true, between(ctx, s)
	default:
		err = fmt.Errorf("%s is none of load, routes, slices, change, between", verb)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "drive: %v\n", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}
