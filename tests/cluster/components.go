package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// components are the processes of the cluster, each this binary with another verb.
type components struct {
	logs string
	tick *time.Ticker
	all  []*component
}

type component struct {
	name      string
	arguments []string
	process   *exec.Cmd
	ended     <-chan struct{}
}

func newComponents(logs string) (*components, error) {
	c := &components{logs: logs, tick: time.NewTicker(50 * time.Millisecond)}
	if logs == "" {
		c.logs = logFolder
		return c, nil
	}
	path, err := filepath.Abs(logs)
	if err != nil {
		return c, err
	}
	c.logs = path
	return c, os.MkdirAll(path, 0o755)
}

func (c *components) start(name string, arguments ...string) error {
	one := &component{name: name, arguments: arguments}
	c.all = append(c.all, one)
	return c.launch(one)
}

func (c *components) launch(one *component) error {
	log, err := os.OpenFile(c.logFile(one.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	one.process = exec.Command(self, append([]string{one.name}, one.arguments...)...)
	one.process.Stdout, one.process.Stderr = log, log
	// A group of its own: Ctrl-C at a terminal is for the command, and ends the cluster after it.
	one.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if one.ended, err = supervise(one.process); err != nil {
		return err
	}
	pid := strconv.Itoa(one.process.Process.Pid)
	return os.WriteFile(filepath.Join(pidFolder, one.name), []byte(pid+"\n"), 0o644)
}

// look gives an error when a component has ended. One whose name stands in the hold folder was ended by a test; it is
// started again as soon as the file is gone.
func (c *components) look() error {
	for _, one := range c.all {
		select {
		case <-one.ended:
		default:
			continue
		}
		_, err := os.Stat(filepath.Join(holdFolder, one.name))
		held := err == nil
		switch {
		case held:
			os.Remove(filepath.Join(pidFolder, one.name))
			one.process = nil
		case one.process == nil:
			if err := c.launch(one); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s ended by itself (%v)", one.name, one.process.ProcessState)
		}
	}
	return nil
}

func (c *components) logFile(name string) string { return filepath.Join(c.logs, name+".log") }

// tell prints the end of the logs, for whoever has to find out why the rig failed.
func (c *components) tell() {
	for _, one := range c.all {
		content, err := os.ReadFile(c.logFile(one.name))
		if err != nil {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
		if len(lines) > 12 {
			lines = lines[len(lines)-12:]
		}
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", one.name, bytes.Join(lines, []byte("\n")))
	}
}

// Children that somebody waits for; the first process of a process namespace inherits all others, and must bury them.
var supervised = struct {
	sync.Mutex
	pids map[int]bool
}{pids: map[int]bool{}}

// supervise starts a process; the channel is closed after it has ended.
func supervise(command *exec.Cmd) (<-chan struct{}, error) {
	supervised.Lock()
	err := command.Start()
	if err == nil {
		supervised.pids[command.Process.Pid] = true
	}
	supervised.Unlock()
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		command.Wait()
		supervised.Lock()
		delete(supervised.pids, command.Process.Pid)
		supervised.Unlock()
		close(ended)
	}()
	return ended, nil
}

// reapOrphans buries processes whose parents have ended.
func reapOrphans() {
	for range time.Tick(100 * time.Millisecond) {
		for {
			var info unix.Siginfo
			err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
			pid := childOf(&info)
			if err != nil || pid == 0 {
				break
			}
			supervised.Lock()
			mine := supervised.pids[pid]
			if !mine {
				unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
			supervised.Unlock()
			if mine {
				// Its own waiter takes it in a moment; others wait for the next round.
				break
			}
		}
	}
}

// childOf reads si_pid, which the package unix keeps to itself.
func childOf(info *unix.Siginfo) int {
	return int((*[8]int32)(unsafe.Pointer(info))[4])
}
