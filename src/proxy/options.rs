//! What the data plane is told once, at start: limits, deadlines and manners. Filled by `app` from the settings.

use std::time::Duration;

use ipnet::IpNet;

use super::wire::chunked::ChunkLimits;
use super::wire::parse::HeadLimits;

/// Limits and manners of every listener and request.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Limits on what clients and backends send.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Peers whose forwarding headers are believed.
    pub trusted: Vec<IpNet>,
    /// Whether `Forwarded` (RFC 7239) is sent beside `X-Forwarded-*`.
    pub forwarded: bool,
    /// Whether Weir's own answers name their reason in `X-Weir-Reason`.
    pub reason_header: bool,
    /// Whether header names with an underscore are forwarded.
    pub keep_underscores: bool,
    /// Whether `//` in a path is one `/`.
    pub merge_slashes: bool,
    /// Attempts per request, the first included.
    pub attempts: u32,
    /// Share of requests that may be tried again, in percent.
    pub retry_percent: u32,
}

/// Limits. 0 is none where not said otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of heads, in both directions.
    pub head: HeadLimits,
    /// Bytes of trailers; at least 1.
    pub trailers: usize,
    /// Bytes of chunk extensions in one body.
    pub extensions: usize,
    /// Bytes of a request body.
    pub body: u64,
    /// Connections per listener over all workers.
    pub connections: u64,
    /// Connections per client address, per worker's share of a listener.
    pub connections_per_address: u32,
    /// Descriptors for connections, two of which a connection may need, and for sessions of datagrams, which have one each.
    pub descriptors: u64,
    /// Sessions of datagrams per listener over all workers; at least 1.
    pub udp_sessions: u32,
    /// Sessions of datagrams of the whole process; at least 1.
    pub all_udp_sessions: u64,
    /// Concurrent HTTP/2 streams per connection; at least 1.
    pub streams: u32,
    /// HTTP/2 receive window per stream, bytes.
    pub stream_window: u32,
    /// HTTP/2 receive window per connection, bytes.
    pub connection_window: u32,
    /// HTTP/2 bytes waiting to be sent, per stream.
    pub send_buffer: usize,
    /// HTTP/2 header list, bytes.
    pub header_list: u32,
    /// HTTP/2 streams reset before they were served, per connection, before it is ended (CVE-2023-44487).
    pub pending_resets: usize,
    /// HTTP/2 streams that we had to reset for the client's errors, before its connection is ended (CVE-2025-8671).
    pub local_resets: usize,
    /// HTTP/2 control frames of one kind beyond what requests and data call for, in points, before a connection is ended.
    pub overhead: u32,
}

impl Limits {
    /// Of chunked bodies.
    pub fn chunks(&self) -> ChunkLimits {
        ChunkLimits { extensions: self.extensions, trailers: self.trailers }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            trailers: 4096,
            extensions: 256,
            body: 0,
            connections: 100_000,
            connections_per_address: 0,
            descriptors: 0,
            udp_sessions: 10_000,
            all_udp_sessions: u64::MAX,
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            send_buffer: 64 * 1024,
            header_list: 32 * 1024,
            pending_resets: 20,
            local_resets: 1024,
            overhead: 1000,
        }
    }
}

/// Deadlines; see the settings reference for the reason of each default.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// TLS handshake, PROXY header.
    pub handshake: Duration,
    /// Request head, from its first byte (of a new connection: from its start).
    pub head: Duration,
    /// Without a byte of a request body, or of room for a response.
    pub body_idle: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// Connection to an endpoint, TLS included.
    pub connect: Duration,
    /// Response head.
    pub response_head: Duration,
    /// Tunnels and streams of unknown length, without a byte in either direction.
    pub tunnel_idle: Duration,
    /// Sessions of datagrams, without one in either direction.
    pub udp_idle: Duration,
    /// What sessions of datagrams still have when their listener is no longer wanted.
    pub leaving: Duration,
    /// Upstream connections without a request.
    pub upstream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            udp_idle: Duration::from_secs(60),
            leaving: Duration::from_secs(240),
            upstream_idle: Duration::from_secs(55),
        }
    }
}
