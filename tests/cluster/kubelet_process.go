package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// plan is all that is needed to start a container's process.
type plan struct {
	// The binary on this machine that stands for the image. The container finds it as /image/NAME.
	binary      string
	argv        []string
	environment []string
	folder      string // working directory
	root        string // empty folder on which the container's file system is put together
	mounts      []mount
	hosts       string // content of /etc/hosts
	hostname    string
	resolver    string // content of /etc/resolv.conf
	netns       string
	user        *syscall.Credential
	ambient     []uintptr
}

// searchPath is PATH in a container, unless it brings its own.
const searchPath = "/image:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

// mount puts what lies at source to target within the container.
type mount struct {
	source, target string
	readOnly       bool
}

// process is a container's first process, in a process namespace of its own: when it ends, all that it started ends.
type process struct {
	id          string
	environment []string
	pid         int
	startedAt   time.Time
	ended       chan struct{}
	finishedAt  time.Time // valid after ended, as are the next two
	exit        int32
	signalled   int32
}

// startProcess starts the plan; its output goes to the book, line by line.
func startProcess(p plan, book *logbook) (*process, error) {
	output, input, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	running := &process{ended: make(chan struct{}), id: containerID(), environment: p.environment}
	copied := make(chan struct{})
	go func() {
		// This thread enters the pod's namespaces for good, and stays until its child has ended, for the child is to die
		// with its parent thread. Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		command, err := startHere(p, input)
		input.Close()
		if err != nil {
			output.Close()
			started <- err
			return
		}
		running.pid, running.startedAt = command.Process.Pid, time.Now()
		started <- nil
		command.Wait()
		running.finishedAt = time.Now()
		running.exit = int32(exitCode(command.ProcessState))
		if running.exit > 128 {
			running.signalled = running.exit - 128
		}
		<-copied
		book.close()
		close(running.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	go func() {
		defer close(copied)
		defer output.Close()
		lines := bufio.NewReaderSize(output, 64<<10)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				book.add(time.Now(), strings.TrimSuffix(line, "\n"))
			}
			if err != nil {
				return
			}
		}
	}()
	return running, nil
}

// startHere starts the plan from the calling thread, after moving that thread into the pod's namespaces.
func startHere(p plan, output *os.File) (*exec.Cmd, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	if err := makeRoot(p); err != nil {
		return nil, err
	}
	handle, err := netns.GetFromPath(p.netns)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	if err := netns.Set(handle); err != nil {
		return nil, err
	}
	path, err := findProgram(p)
	if err != nil {
		return nil, err
	}
	command := &exec.Cmd{
		Path: path, Args: p.argv, Env: p.environment, Dir: p.folder, Stdout: output, Stderr: output,
		SysProcAttr: &syscall.SysProcAttr{
			Chroot: p.root, Setsid: true, Pdeathsig: syscall.SIGKILL,
			Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
			Credential: p.user, AmbientCaps: p.ambient,
		},
	}
	return command, command.Start()
}

// makeRoot puts the container's file system together: the machine's programs and libraries, read-only, and an empty,
// writable rest. Nothing that a container writes reaches the machine.
func makeRoot(p plan) error {
	if err := os.MkdirAll(p.root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("container", p.root, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	within := func(path string) string { return filepath.Join(p.root, path) }
	for _, name := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		info, err := os.Lstat(name)
		switch {
		case err != nil:
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, within(name)); err != nil {
				return err
			}
		default:
			if err := bind(name, within(name), true); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"/proc", "/sys", "/dev"} {
		if err := bind(name, within(name), false); err != nil {
			return err
		}
	}
	for name, mode := range map[string]os.FileMode{"/tmp": 0o1777, "/var/tmp": 0o1777, "/run": 0o755, "/root": 0o700, "/home": 0o755, "/etc": 0o755} {
		if err := os.MkdirAll(within(name), 0o755); err != nil {
			return err
		}
		if err := unix.Chmod(within(name), uint32(mode)); err != nil {
			return err
		}
	}
	// Relative: an absolute link would lead the mounts below out of the container's root.
	if err := os.Symlink("../run", within("/var/run")); err != nil {
		return err
	}
	for name, content := range map[string]string{"hosts": p.hosts, "hostname": p.hostname + "\n", "resolv.conf": p.resolver} {
		if err := os.WriteFile(within("/etc/"+name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"ssl", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "passwd", "group", "nsswitch.conf", "localtime", "services", "protocols"} {
		if _, err := os.Stat("/etc/" + name); err == nil {
			if err := bind("/etc/"+name, within("/etc/"+name), true); err != nil {
				return err
			}
		}
	}
	if err := bind(p.binary, within("/image/"+filepath.Base(p.binary)), true); err != nil {
		return err
	}
	for _, m := range p.mounts {
		if err := bind(m.source, within(m.target), m.readOnly); err != nil {
			return fmt.Errorf("%s: %w", m.target, err)
		}
	}
	return nil
}

// bind mounts a folder or a file; the place is made.
func bind(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var file *os.File
		if file, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			file.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if !readOnly {
		return nil
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// findProgram gives the path, within the container, of the program to run.
func findProgram(p plan) (string, error) {
	name := p.argv[0]
	if strings.Contains(name, "/") {
		// An image's own path for its program: the binary stands for it, wherever the image has it.
		if _, err := os.Stat(filepath.Join(p.root, name)); err != nil && filepath.Base(name) == filepath.Base(p.binary) {
			return "/image/" + filepath.Base(p.binary), nil
		}
		return name, nil
	}
	for _, folder := range strings.Split(searchPath, ":") {
		if info, err := os.Stat(filepath.Join(p.root, folder, name)); err == nil && info.Mode()&0o111 != 0 {
			return filepath.Join(folder, name), nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in the container", name)
}

func containerID() string {
	random := make([]byte, 16)
	rand.Read(random)
	return "process://" + hex.EncodeToString(random)
}

func (r *process) signal(s syscall.Signal) {
	select {
	case <-r.ended:
	default:
		syscall.Kill(r.pid, s)
	}
}

// command prepares a further process in the container's namespaces.
func (r *process) command(ctx context.Context, argv []string) *exec.Cmd {
	arguments := append([]string{"--target", strconv.Itoa(r.pid), "--mount", "--net", "--pid", "--ipc", "--root", "--wd", "--"}, argv...)
	command := exec.CommandContext(ctx, "nsenter", arguments...)
	command.Env = r.environment
	command.WaitDelay = time.Second
	return command
}

// execute is exec in a container: the error is a *exec.ExitError where the command ended with a code.
func (r *process) execute(ctx context.Context, argv []string, in io.Reader, out, err io.Writer) error {
	if len(argv) == 0 {
		return errors.New("no command")
	}
	command := r.command(ctx, argv)
	command.Stdout, command.Stderr = out, err
	if in != nil {
		// Not command.Stdin: waiting for a client that never closes its side would keep the exec open.
		pipe, fault := command.StdinPipe()
		if fault != nil {
			return fault
		}
		go func() {
			io.Copy(pipe, in)
			pipe.Close()
		}()
	}
	return command.Run()
}
