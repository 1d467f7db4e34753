package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const bridgeName = "br0"

// makeNetwork fills the rig's own network namespace: loopback, the pods' bridge, and the gateways' addresses, which are
// local without being configured one by one (AnyIP), so that any of them can be bound. There is no route to anywhere else.
func makeNetwork() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return err
	}
	// A bridge and not a dummy interface: some kernels are built without the latter.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("no bridge can be made: %w", err)
	}
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: network(nodeIP, podPrefix)}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	_, gateways, err := net.ParseCIDR(gatewayNetwork)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: loopback.Attrs().Index, Dst: gateways, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("%s does not become local: %w", gatewayNetwork, err)
	}
	return nameNamespace(netnsName)
}

func network(address string, prefix int) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(address), Mask: net.CIDRMask(prefix, 32)}
}

// nameNamespace makes the calling thread's network namespace known to `ip netns`.
func nameNamespace(name string) error {
	if err := os.MkdirAll(netnsFolder, 0o755); err != nil {
		return err
	}
	path := filepath.Join(netnsFolder, name)
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	file.Close()
	return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
}

// podNetworks hands out addresses and namespaces. An address is used once: nothing that remembers a pod that is gone can
// meet another one in its place.
type podNetworks struct {
	mu   sync.Mutex
	next netip.Addr
}

func newPodNetworks() *podNetworks {
	return &podNetworks{next: netip.MustParseAddr("198.18.1.1")}
}

func (n *podNetworks) address() (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	address := n.next
	if !netip.MustParsePrefix(podNetwork).Contains(address) {
		return address, fmt.Errorf("all addresses of %s are used", podNetwork)
	}
	n.next = address.Next()
	return address, nil
}

// podNetns is the path of a pod's network namespace.
func podNetns(uid string) string { return filepath.Join(netnsFolder, "p-"+uid) }

// add makes a pod's namespace, with one leg on the bridge.
func (n *podNetworks) add(uid string, address netip.Addr) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is in another namespace and ends with the goroutine.
		runtime.LockOSThread()
		result <- enterNewNetns(uid)
	}()
	if err := <-result; err != nil {
		return err
	}
	handle, err := netns.GetFromPath(podNetns(uid))
	if err != nil {
		return err
	}
	defer handle.Close()
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	// An interface's name has at most 15 characters; the address is unique and short.
	octets := address.As4()
	name := fmt.Sprintf("v%d.%d", octets[2], octets[3])
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: name, MasterIndex: bridge.Attrs().Index},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(handle),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("no veth pair can be made: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(handle)
	if err != nil {
		return err
	}
	defer inside.Close()
	for _, device := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(device)
		if err != nil {
			return err
		}
		if device == "eth0" {
			if err := inside.AddrAdd(link, &netlink.Addr{IPNet: network(address.String(), podPrefix)}); err != nil {
				return err
			}
		}
		if err := inside.LinkSetUp(link); err != nil {
			return err
		}
	}
	// The way to the gateways' addresses. It ends in the rig, which forwards nothing.
	return inside.RouteAdd(&netlink.Route{Gw: net.ParseIP(nodeIP)})
}

func enterNewNetns(uid string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	// As container engines do: a port below 1024 needs no capability inside a pod.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0o644); err != nil {
		return err
	}
	return nameNamespace("p-" + uid)
}

// remove drops a pod's namespace; its processes must have ended, else they keep it.
func (n *podNetworks) remove(uid string) {
	path := podNetns(uid)
	unix.Unmount(path, unix.MNT_DETACH)
	os.Remove(path)
}
