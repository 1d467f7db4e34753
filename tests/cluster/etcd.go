package main

import (
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// etcd stores the cluster's objects in memory (the folder is a tmpfs), so it need not wait for a disk.
func etcd() {
	// The log is allocated ahead in pieces of this size; the default of 64 MB would be two thirds of all that etcd uses.
	wal.SegmentSizeBytes = 8 << 20

	config := embed.NewConfig()
	config.Dir = etcdFolder
	config.LogLevel = "warn"
	config.UnsafeNoFsync = true
	client, peer := mustURL(etcdClient), mustURL(etcdPeer)
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		fatal("etcd does not start: %v", err)
	}
	fatal("etcd ended: %v", <-server.Err())
}

func mustURL(text string) url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return *u
}
