package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `usage: tests/cluster/run [--crds standard|experimental|none] [--image PREFIX=BINARY]… [--logs FOLDER] -- COMMAND…`

// settings are what the runner was asked for; the outer process checks them, the inner one works with them.
type settings struct {
	// Channel of the Gateway API's definitions: standard, experimental or none.
	crds string
	// Folder that holds the channels' folders, `config/crd` of the module sigs.k8s.io/gateway-api.
	crdsFrom string
	images   imageTable
	// Where the components' logs go; empty: into the rig's own memory, gone with it.
	logs    string
	command []string
}

func parseSettings(arguments []string) (settings, error) {
	s := settings{images: imageTable{}}
	flags := flag.NewFlagSet("rig run", flag.ContinueOnError)
	// One sentence says what is wrong; the list of flags would hide it.
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.crds, "crds", environmentOr("WEIR_RIG_CRDS", "standard"), "channel of the Gateway API: standard, experimental or none")
	flags.StringVar(&s.crdsFrom, "crds-from", "", "folder with the folders standard/ and experimental/")
	flags.Func("image", "PREFIX=BINARY: pods whose image begins with PREFIX run BINARY", s.images.add)
	flags.StringVar(&s.logs, "logs", "", "folder for the logs of the components")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return s, errors.New(usage)
	} else if err != nil {
		return s, err
	}
	for _, entry := range strings.Fields(os.Getenv("WEIR_RIG_IMAGES")) {
		if err := s.images.add(entry); err != nil {
			return s, err
		}
	}
	switch s.crds {
	case "none":
	case "standard", "experimental":
		if s.crdsFrom == "" {
			return s, errors.New("--crds " + s.crds + " needs --crds-from FOLDER")
		}
	default:
		return s, errors.New("--crds is '" + s.crds + "'; it is one of standard, experimental, none")
	}
	s.command = flags.Args()
	if len(s.command) == 0 {
		return s, errors.New("no command; " + usage)
	}
	return s, nil
}

func environmentOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// runOutside is the process that the caller sees. It makes the namespaces, starts the rig in them, hands signals on and
// passes the exit code of the command on.
//
// All that the rig makes lives in a network, a mount and a process namespace of its own: interfaces, addresses, mounted
// folders and processes are taken down by the kernel when the namespaces' first process ends, however it ends. So there
// is nothing to clean up, also not after SIGKILL, and two runs never see each other.
func runOutside(arguments []string) int {
	if _, err := parseSettings(arguments); err != nil {
		fatal("%v", err)
	}
	if os.Geteuid() != 0 {
		fatal("the test cluster needs root, because it makes network namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		fatal("the path of the rig's own binary is unknown: %v", err)
	}
	inside := exec.Command(self, append([]string{"inside"}, arguments...)...)
	inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
	inside.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := inside.Start(); err != nil {
		fatal("the test cluster needs the right to make network, mount and process namespaces (CAP_SYS_ADMIN): %v", err)
	}
	go func() {
		for s := range signals {
			inside.Process.Signal(s)
		}
	}()
	inside.Wait()
	return exitCode(inside.ProcessState)
}

// exitCode is a shell's: 128 + signal for what a signal ended.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
